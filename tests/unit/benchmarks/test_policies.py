"""The judgement of a comparison's table, and that the comparisons can be run at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies.documents import read
from benchmarks.policies.judge import judge
from benchmarks.policies.leftout import with_leftout
from client.compare import expand, parse

KINDS = {"a": "fine-tuning", "b": "scratch"}


def stat(value: float, n: int = 3) -> dict[str, Any]:
    return {"mean": value, "n": n}


def rival(accuracy: float = 0.01, flops: float = 0.9, n: int = 3) -> dict[str, Any]:
    return {"accuracy_difference": stat(accuracy, n), "flops_ratio": stat(flops, n)}


def row(workload: str, **changes: Any) -> dict[str, Any]:
    return {
        "workload": workload,
        "arm": "smartfrz",
        "kind": "policy",
        "n": 3,
        "accuracy_difference": stat(-0.001),
        "flops_speedup": 2.6,
        "train_seconds_ratio": stat(0.39),
        "equal_compute_difference": stat(0.001),
        "frozen_units": stat(3.0),
        "against": {"early-stop": rival()},
        **changes,
    }


def policies(frozen: float = 3.0, **rivals: dict[str, Any]) -> list[dict[str, Any]]:
    """The table with every policy: ours against ``linear`` on both workloads, and against the rivals on one."""
    others = {"linear": rival(), "early-stop": rival(-0.5), **rivals}
    kinds = {"early-stop": "early-stop"}
    return [
        row("b", against={"linear": rival()}),
        row("a", against=others),
        *(row(w, arm="linear", against={}) for w in KINDS),
        *(
            row("a", arm=name, kind=kinds.get(name, "policy"), frozen_units=stat(frozen), against={})
            for name in others
            if name != "linear"
        ),
    ]


def test_everything_kept() -> None:
    listed = judge([row("a"), row("b")], policies(), KINDS)
    assert all(entry["ok"] for entry in listed), listed
    assert {frozenset(entry) for entry in listed} == {frozenset({"measure", "value", "bound", "ok"})}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"accuracy_difference": stat(-0.003)}, "a: accuracy against full training"),
        ({"accuracy_difference": stat(0.003, n=2)}, "a: accuracy against full training"),
        ({"flops_speedup": 2.4}, "a: FLOPs, full / ours"),
        ({"train_seconds_ratio": stat(0.5)}, "a: seconds of training, full / ours"),
        (
            {"equal_compute_difference": stat(-0.001)},
            "accuracy against shortened full training at equal FLOPs: the worst (a)",
        ),
        (
            {"equal_compute_difference": stat(0.0)},
            "accuracy against shortened full training at equal FLOPs: share above, of 2",
        ),
        ({"against": {"early-stop": rival(0.1, 1.1)}}, "early stopping"),
    ],
)
def test_each_promise_can_be_broken(changes: dict[str, Any], broken: str) -> None:
    listed = judge([row("a", **changes), row("b")], policies(), KINDS)
    assert any(entry["measure"].startswith(broken) for entry in listed if not entry["ok"]), listed


def calendar(*rows: dict[str, Any], before: Sequence[dict[str, Any]] = ()) -> float | None:
    listed = judge(rows, before, KINDS)
    return next(e["value"] for e in listed if e["measure"].startswith("accuracy against shortened full training"))


def test_a_calendar_of_before_stands_in_where_it_was_not_run_again() -> None:
    a, b = row("a"), row("b")
    again = row("b", equal_compute_difference=None)
    some = row("b", equal_compute_difference=stat(0.5, n=2))
    assert calendar(a, b) == 0.001
    assert calendar(a, again) is None
    assert calendar(a, again, before=[row("b", equal_compute_difference=stat(-0.004))]) == -0.004
    assert calendar(a, some, before=[row("b", equal_compute_difference=stat(-0.004))]) == -0.004, "not of all seeds"


def test_early_stopping_is_judged_once_it_ran_with_all_of_our_seeds() -> None:
    lacking = row("b", against={"early-stop": rival(n=1)})
    found = {rows: judge([row("a"), other], [], KINDS) for rows, other in (("all", row("b")), ("some", lacking))}
    of = {rows: next(e for e in listed if e["measure"].startswith("early stopping")) for rows, listed in found.items()}
    assert (of["all"]["value"], of["all"]["ok"]) == (2.0, True)
    assert (of["some"]["value"], of["some"]["ok"]) == (None, False)


def other_policies(table: list[dict[str, Any]]) -> dict[str, bool]:
    listed = judge([row("a"), row("b")], table, KINDS)
    return {entry["measure"]: entry["ok"] for entry in listed if "other policies" in entry["measure"]}


def test_a_better_policy_is_named_and_half_of_them_is_not_most() -> None:
    worst, share = other_policies(policies(egeria=rival(-0.1), freezeout=rival(-0.01)))
    assert worst.endswith("the worst (a: egeria)")
    assert share.endswith("share above, of 4")
    assert not any(other_policies(policies(egeria=rival(-0.1), freezeout=rival(-0.01))).values())


@pytest.mark.parametrize(
    ("name", "found", "frozen"),
    [
        pytest.param("cheap", rival(-0.1, 1.2), 3.0, id="spends less than ours"),
        pytest.param("smartfrz-fast", rival(-0.1), 3.0, id="another of our settings"),
        pytest.param("few", rival(-0.1, n=2), 3.0, id="two seeds"),
        pytest.param("idle", rival(-0.1), 0.0, id="froze nothing"),
    ],
)
def test_who_is_no_rival(name: str, found: dict[str, Any], frozen: float) -> None:
    assert all(other_policies(policies(frozen, **{name: found})).values())


@pytest.mark.parametrize(
    ("fresh", "kept"),
    [
        pytest.param(rival(-0.1), False, id="worse than on the seeds of before"),
        pytest.param(rival(-0.1, 1.1), True, id="no rival there, for it spends less"),
        pytest.param(rival(-0.1, n=2), True, id="two seeds: those of before count"),
    ],
)
def test_a_rival_is_judged_on_the_seeds_that_decided_nothing_where_it_ran_there(
    fresh: dict[str, Any], kept: bool
) -> None:
    ours = row("a", against={"early-stop": rival(), "linear": fresh, "frozen-faster-0.6": rival(-0.5)})
    others = [row("a", arm=name, against={}) for name in ("linear", "frozen-faster-0.6")]
    listed = judge([ours, row("b"), *others], policies(), KINDS)
    worst = next(e for e in listed if e["measure"].startswith("accuracy against other policies"))
    assert worst["ok"] == kept, "and our own policy on another recipe is no rival"


def test_what_was_not_measured_is_not_kept() -> None:
    listed = judge([row("a")], [], KINDS)
    assert {e["measure"] for e in listed if e["value"] is None} >= {"b: FLOPs, full / ours"}
    assert not any(e["ok"] for e in listed if e["value"] is None)


@pytest.mark.parametrize(("quick", "arms"), [(True, None), (False, None), (False, "confirm")])
def test_the_comparisons_can_be_run(tmp_path: Path, quick: bool, arms: str | None) -> None:
    document = read(quick=quick, arms=arms)
    runs = expand(parse(with_leftout(document.comparison, tmp_path)))
    assert {run.workload for run in runs} == set(document.kinds)
    halves = sorted(w for half in document.halves.values() for w in half)
    assert halves == ([] if quick else sorted(document.kinds))
    assert {run.arm for run in runs} >= {"full", "early-stop", "smartfrz"}


def test_what_confirms_has_seeds_that_decided_nothing_and_the_whole_test_split(tmp_path: Path) -> None:
    usual, confirm = (expand(parse(with_leftout(read(arms=arms).comparison, tmp_path))) for arms in (None, "confirm"))
    assert not {run.seed for run in confirm} & {run.seed for run in usual}
    assert {run.spec["data"].get("test_size") for run in confirm} == {None}
    assert {run.spec["data"].get("test_size") for run in usual} != {None}


@pytest.mark.parametrize("arms", ["limits", "confirm"])
def test_cut_recipes_have_the_steps_of_their_calendar_and_hurried_ones_a_higher_rate(tmp_path: Path, arms: str) -> None:
    document = read(arms=arms)
    runs = expand(parse(with_leftout(document.comparison, tmp_path)))
    specs = {(run.workload, run.arm): run.spec["training"] for run in runs}
    cut = [key for key in specs if "-of-" in key[1] or "faster-" in key[1]]
    assert {workload for workload, _ in cut} == set(document.kinds)
    for workload, arm in cut:
        length = arm.split("-")[-1]
        calendar = specs[workload, f"shorter-{length}"]
        assert specs[workload, arm]["max_steps"] == calendar["max_steps"]
        rates = specs[workload, arm]["optimizer"]["lr"], calendar["optimizer"]["lr"]
        hurried = rates[1] / float(length) if "faster-" in arm else rates[1]
        assert rates[0] == pytest.approx(hurried, rel=2e-3)  # rates are written with three digits


def test_learned_policies_never_saw_the_network(tmp_path: Path) -> None:
    folder, data = tmp_path / "leftout", tmp_path / "data"
    folder.mkdir()
    own = folder / "smartfrz-without-vgg-small.safetensors"
    own.write_bytes(b"first")
    document = {
        "workloads": {"vgg": {"model": {"name": "vgg-small"}}, "own": {"model": {"name": "custom"}}},
        "arms": {
            "full": {},
            "smartfrz": {"freeze.policy": "smartfrz"},
            "fast": {"freeze.policy": "smartfrz", "workloads": {"vgg": {"freeze.aggressiveness": "fast"}}},
            "never": {"freeze.policy": "smartfrz", "workloads": {"vgg": False}},
            "mine": {"freeze.policy": "smartfrz", "freeze.options.weights": "mine.safetensors"},
            "linear": {"freeze.policy": "linear"},
        },
    }
    before = json.dumps(document)
    arms = with_leftout(document, data, folder)["arms"]
    weights = arms["smartfrz"]["workloads"]["vgg"]
    assert (data / weights["freeze.options.weights"]).read_bytes() == b"first"
    assert json.dumps(document) == before
    assert arms["smartfrz"]["workloads"] == {"vgg": weights}
    assert arms["fast"]["workloads"] == {"vgg": {**weights, "freeze.aggressiveness": "fast"}}
    assert arms["never"]["workloads"] == {"vgg": False}
    assert "workloads" not in arms["mine"]
    assert "workloads" not in arms["linear"]
    own.write_bytes(b"second")
    other = with_leftout(document, data, folder)["arms"]["smartfrz"]["workloads"]["vgg"]
    assert other != weights, "runs with other weights are other runs"
    assert (data / other["freeze.options.weights"]).read_bytes() == b"second"
