"""The setting chosen on one half of the workloads, and the short tables of the evidence page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies.overview import overview
from benchmarks.policies.setting import choose_and_report
from benchmarks.policies.summary import (
    against_full_and_calendar,
    against_policies,
    against_rivals,
    choices,
    chosen_by_hand,
    confirmed,
    fill,
    headline,
    promises,
)

HALVES = {"one": ["a", "b"], "other": ["c", "d"]}


def stat(mean: float, n: int = 3, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "n": n, "low": low, "high": high}


def row(workload: str, arm: str, lost: float, speedup: float, n: int = 3) -> dict[str, Any]:
    return {
        "workload": workload,
        "arm": arm,
        "kind": "policy",
        "n": n,
        "notes": [],
        "accuracy_difference": stat(lost, n, lost - 0.001, lost + 0.001) if n > 1 else stat(lost, n),
        "flops_speedup": speedup,
        "flops_ratio": stat(1 / speedup),
        "train_seconds_ratio": stat(0.8),
        "equal_compute_difference": None,
        "early_stop_difference": stat(0.01),
    }


def rows(workload: str, careful: float, balanced: float, fast: float) -> list[dict[str, Any]]:
    return [
        row(workload, "smartfrz-conservative", careful, 1.1),
        row(workload, "smartfrz", balanced, 1.3),
        row(workload, "smartfrz-fast", fast, 1.6, n=2),
    ]


TABLE = [
    *rows("a", 0.0, -0.001, -0.001),
    *rows("b", 0.0, 0.001, -0.009),  # fast loses half a point on average of a and b
    *rows("c", 0.0, -0.004, -0.001),
    *rows("d", 0.0, -0.004, -0.002),
]


def test_each_half_chooses_for_the_other() -> None:
    first, second = choose_and_report(TABLE, HALVES)
    assert (first["chosen_on"], first["setting"], first["reported_on"]) == (["a", "b"], "balanced", ["c", "d"])
    assert first["accuracy_difference"] == first["worst"] == pytest.approx(-0.004)
    assert first["flops_speedup"] == pytest.approx(1.3)
    assert (second["setting"], second["reported_on"], second["seeds"]) == ("fast", ["a", "b"], 2)
    assert second["accuracy_difference"] == pytest.approx(-0.005)
    assert second["worst"] == pytest.approx(-0.009)


def test_where_all_lose_too_much_the_most_careful_is_chosen() -> None:
    table = [*rows("a", -0.003, -0.004, -0.005), *rows("c", 0.0, 0.0, 0.0)]
    assert choose_and_report(table, HALVES)[0]["setting"] == "conservative"


def test_a_workload_without_all_settings_does_not_count() -> None:
    table = [entry for entry in TABLE if (entry["workload"], entry["arm"]) != ("b", "smartfrz-conservative")]
    assert choose_and_report(table, HALVES)[0]["chosen_on"] == ["a"]
    assert choose_and_report(table, {"one": ["b"], "other": ["c"]}) == []


def test_tables_show_signs_intervals_and_gaps() -> None:
    kinds = {"a": "scratch", "b": "fine-tuning"}
    text = against_full_and_calendar(TABLE, kinds)
    assert "| a | scratch | 3 | balanced | -0.10 [-0.20, 0.00] | 1.30 | 1.25 |  | +1.00 |" in text
    assert "| c |" not in text
    few = against_full_and_calendar([{**row("a", "smartfrz", 0.0, 1.3), "train_seconds_ratio": stat(0.8, n=1)}], kinds)
    assert "| 1.30 | 1.25 (n = 1) |" in few, "one seed does not pass for three"
    assert "| smartfrz-fast | -0.10 at 0.62 (2) | -0.90 at 0.62 (2) |" in against_policies(TABLE, kinds)
    kept = {"measure": "m", "value": 0.5, "bound": 1.0, "ok": False}
    assert promises([kept, {**kept, "value": None}]).splitlines()[2:] == [
        "| m | 1 | 0.5 | **no** |",
        "| m | 1 | not measured | **no** |",
    ]
    assert "| a, b | balanced | c, d | -0.40 | -0.40 | 1.30 | 3 or more |" in choices(choose_and_report(TABLE, HALVES))


def test_what_was_confirmed_stands_against_those_who_stop_and_hurry() -> None:
    ours = row("a", "smartfrz", -0.001, 1.6)
    ours["against"] = {
        "early-stop": {"accuracy_difference": stat(0.02, 3, 0.01, 0.03), "flops_ratio": stat(1.25)},
        "faster-0.6": {"accuracy_difference": stat(0.003, 2), "flops_ratio": stat(1.0)},
    }
    full = {**row("a", "full", 0.0, 1.0), "kind": "full", "accuracy": stat(0.9123)}
    others = [{**row("a", name, -0.02, 2.0), "against": {}} for name in ("early-stop", "faster-0.6")]
    head, _, line = confirmed([full, ours, *others], {"a": "scratch", "b": "scratch"}).splitlines()
    assert len(head.split("|")) == len(line.split("|"))
    assert [cell.strip() for cell in line.split("|")][3:] == [
        "3",
        "91.23",
        "-0.10 [-0.20, 0.00]",
        "1.60",
        "1.25 (n = 3)",
        "",
        "+0.30 (n = 2) (1.00 of our FLOPs)",
        "+2.00 [+1.00, +3.00] (0.80 of our FLOPs)",
        "",
    ]


def test_other_policies_stand_beside_ours_with_what_they_spent() -> None:
    def met(accuracy: float, flops: float) -> dict[str, Any]:
        return {
            "accuracy_difference": stat(accuracy, 3, accuracy - 0.001, accuracy + 0.001),
            "flops_ratio": stat(flops),
        }

    froze, idle = {"frozen_units": stat(2.0), "against": {}}, {"frozen_units": stat(0.0), "against": {}}
    against = {name: met(0.002, 0.8) for name in ("linear", "faster-0.6", "frozen-faster-0.6", "early-stop")}
    table = [
        {**row("a", "smartfrz", 0.0, 1.3), **froze, "against": against},
        {**row("b", "smartfrz", 0.0, 1.3), **froze, "against": {"linear": met(-0.004, 1.0)}},
        *({**row(name, "linear", 0.0, 1.1), **froze} for name in ("a", "b")),
        {**row("a", "faster-0.6", 0.0, 1.6), **idle},
        {**row("a", "frozen-faster-0.6", 0.0, 1.6), **froze},
        {**row("a", "early-stop", 0.0, 1.6), "kind": "early-stop", **froze},
    ]
    head, _, *lines = against_rivals(table, {"a": "scratch", "b": "scratch", "c": "scratch"}).splitlines()
    assert head == "| workload | to linear, pt (its FLOPs / ours) |"
    assert lines == [
        "| a | +0.20 [+0.10, +0.30] (1.25) |",
        "| b | -0.40 [-0.50, -0.30] (1.00) |",
        "| mean | -0.10 [-3.91, +3.71] (1.12) |",
    ]


def test_the_last_line_is_the_mean_over_the_workloads() -> None:
    two = [
        {**row("a", "smartfrz", -0.001, 1.0), "against": {}},
        {**row("b", "smartfrz", 0.003, 3.0, n=1), "against": {}, "early_stop_difference": None},
    ]
    *_, line = confirmed(two, {"a": "scratch", "b": "scratch"}).splitlines()
    # the mean of two, 0.1 points, and 12.706 times their standard error of 0.2; as much training on each at 1.0 and 3.0
    assert [cell.strip() for cell in line.split("|")][1:] == (
        ["mean", "", "", "", "+0.10 [-2.44, +2.64]", "1.50", "", "", "", "+1.00 (n = 1)", ""]
    )


def test_a_workload_whose_full_training_is_missing_has_empty_cells_and_counts_in_no_mean() -> None:
    nothing = dict.fromkeys(("accuracy_difference", "flops_speedup", "flops_ratio", "train_seconds_ratio"))
    lacking = {**row("b", "smartfrz", 0.0, 1.0), "early_stop_difference": None, "against": {}, **nothing}
    table = [{**row("a", "smartfrz", -0.001, 2.0), "against": {}}, lacking]
    kinds = {"a": "scratch", "b": "scratch"}
    *_, line, mean = confirmed(table, kinds).splitlines()
    assert [cell.strip() for cell in line.split("|")][1:] == ["b", "scratch", "3", *[""] * 8]
    assert [cell.strip() for cell in mean.split("|")][5:7] == ["-0.10 (n = 1)", "2.00"]
    assert against_policies(table, kinds).splitlines()[0] == "|  | a | b |"


def test_what_saves_most_by_hand_comes_first_and_the_usual_arms_stay_out() -> None:
    text = chosen_by_hand([row("a", "slow", 0.0, 1.2), row("a", "quick", -0.01, 2.5), *TABLE], {"a": ""}, {"smartfrz"})
    assert [line.split(" | ")[1] for line in text.splitlines()[2:]] == [
        "quick",
        "smartfrz-fast",
        "slow",
        "smartfrz-conservative",
    ]
    assert "| a | quick | 3 | -1.00 [-1.10, -0.90] | 2.50 |  |" in text


def test_a_page_keeps_what_stands_outside_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- /t -->\nafter\n")
    fill(page, {"t": "| new |"})
    fill(page, {"t": "| newer |"})
    assert page.read_text() == "before\n<!-- t -->\n| newer |\n<!-- /t -->\nafter\n"
    with pytest.raises(ValueError, match="no markers <!-- u -->"):
        fill(page, {"u": ""})


def test_the_picture_has_a_line_for_each_workload_and_a_mark_for_each_setting() -> None:
    kinds = {"a": "scratch", "b": "fine-tuning", "unknown": "scratch"}
    figure = overview(TABLE, kinds)
    assert figure is not None
    losses, savings, calendar = figure.axes
    assert [label.get_text() for label in losses.get_yticklabels()] == ["a\n(scratch)", "b\n(fine-tuning)"]
    settings = [line for line in savings.lines if line.get_label() in ("conservative", "balanced", "fast")]
    assert sorted(float(line.get_xdata()[0]) for line in settings) == [1.1, 1.1, 1.3, 1.3, 1.6, 1.6]
    assert any(list(line.get_xdata()) == [pytest.approx(-0.9)] for line in losses.lines)
    assert [list(line.get_xdata()) for line in calendar.lines] == [[0.0, 0.0]]  # nothing known but the bound


def test_without_any_run_there_is_no_picture() -> None:
    assert overview([], {"a": "scratch"}) is None


def test_the_headline_is_of_the_default_setting_alone() -> None:
    fresh = [row("b", "smartfrz", 0.002, 1.5, n=1)]
    text = headline(fresh, TABLE, {"a": "scratch", "b": "fine-tuning", "unknown": "fine-tuning"})
    assert text.splitlines()[2:] == [
        "| a, scratch |  |  |  | -0.10 [-0.20, 0.00] (n = 3) | 1.30 |  |",
        "| b, fine-tuning | +0.20 (n = 1) | 1.50 |  | +0.10 [0.00, +0.20] (n = 3) | 1.30 |  |",
    ]
