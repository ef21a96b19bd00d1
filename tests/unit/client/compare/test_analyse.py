"""The table: paired by seed, never extrapolated, nothing shown that was not measured."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from comparisons import definition, record, report, results

from client.compare import analyse, expand, parse
from client.compare.machines import ELSEWHERE, RIVALS_ELSEWHERE
from client.compare.table import markdown

REPORTS = {
    ("full", 0): report(0.90, 100.0, seconds=10.0, allreduce=8.0),
    ("full", 1): report(0.92, 100.0, seconds=12.0, allreduce=8.0),
    ("shorter-0.5", 0): report(0.80, 50.0, steps=80),
    ("shorter-0.5", 1): report(0.84, 50.0, steps=80),
    ("shorter-0.75", 0): report(0.88, 75.0, steps=120),
    ("shorter-0.75", 1): report(0.88, 75.0, steps=120),
    ("early-stop", 0): report(0.86, 60.0),
    ("early-stop", 1): report(0.88, 70.0),
    ("linear", 0): report(0.89, 60.0, seconds=5.0, allreduce=4.0, history=[(40, ["stem"], []), (80, ["block.0"], [])]),
    ("linear", 1): report(0.93, 80.0, seconds=9.0, allreduce=6.0, history=[(40, ["stem"], []), (90, [], ["stem"])]),
}


def analysed(reports: dict[Any, Any], **changes: Any) -> dict[str, Any]:
    comparison = parse(definition(**changes))
    runs = expand(comparison)
    return analyse(comparison, runs, results(runs, reports))


def row(document: dict[str, Any], arm: str) -> dict[str, Any]:
    (found,) = [row for row in document["table"] if row["arm"] == arm]
    return dict(found)


def test_ratios_and_differences_are_paired_by_seed() -> None:
    linear = row(analysed(REPORTS), "linear")
    assert linear["n"] == 2
    assert linear["accuracy"]["mean"] == pytest.approx(0.91)
    assert linear["accuracy_difference"]["by_seed"] == pytest.approx({"0": -0.01, "1": 0.01})
    assert linear["flops_ratio"]["mean"] == pytest.approx(0.7)
    assert linear["flops_ratio"]["source"] == "estimated"
    assert linear["flops_speedup"] == pytest.approx(1 / 0.7)
    assert linear["wall_ratio"]["by_seed"] == pytest.approx({"0": 0.5, "1": 0.75})
    assert linear["wall_ratio"]["source"] == "measured"
    assert linear["allreduce_bytes_ratio"]["mean"] == pytest.approx(0.625)
    assert linear["frozen_units"]["mean"] == 1.0


def test_the_ratio_is_to_full_training_and_not_to_the_length_of_the_run_itself() -> None:
    assert row(analysed(REPORTS), "shorter-0.5")["flops_ratio"]["mean"] == 0.5


def test_equal_compute_is_between_the_lengths_of_the_same_seed() -> None:
    linear = row(analysed(REPORTS), "linear")
    # seed 0 at 0.6: 0.80 + ln(0.6 / 0.5) / ln(0.75 / 0.5) * 0.08 = 0.83597; seed 1 at 0.8: 0.88897
    assert linear["equal_compute_difference"]["by_seed"] == pytest.approx({"0": 0.05403, "1": 0.04103}, abs=1e-5)
    assert row(analysed(REPORTS), "full")["equal_compute_difference"] is None


def test_nothing_is_said_outside_of_the_curve() -> None:
    cheap = REPORTS | {("linear", 0): report(0.7, 40.0)}
    assert row(analysed(cheap), "linear")["equal_compute_difference"]["by_seed"].keys() == {"1"}
    none = {key: value for key, value in REPORTS.items() if not key[0].startswith("shorter")}
    assert row(analysed(none), "linear")["equal_compute_difference"] is None


def test_rivals_stand_side_by_side() -> None:
    document = analysed(REPORTS)
    linear = row(document, "linear")
    assert linear["early_stop_difference"]["by_seed"] == pytest.approx({"0": 0.03, "1": 0.05})
    assert linear["against"].keys() == {"early-stop"}
    assert linear["against"]["early-stop"]["flops_ratio"]["by_seed"] == pytest.approx({"0": 1.0, "1": 80 / 70})
    assert row(document, "early-stop")["early_stop_difference"] is None


def test_a_resumed_run_has_no_wall_time() -> None:
    resumed = REPORTS | {("linear", 0): report(0.89, 60.0, resumes=1)}
    assert row(analysed(resumed), "linear")["wall_ratio"]["by_seed"].keys() == {"1"}


def test_one_rank_has_no_all_reduce_ratio() -> None:
    alone = {key: report(0.9, 100.0) for key in REPORTS}
    assert row(analysed(alone), "linear")["allreduce_bytes_ratio"] is None


def test_a_run_without_its_full_training_is_in_no_pair() -> None:
    lacking = {key: value for key, value in REPORTS.items() if key != ("full", 0)}
    linear = row(analysed(lacking), "linear")
    assert linear["accuracy"]["n"] == 2
    assert linear["accuracy_difference"]["n"] == 1
    assert linear["accuracy_difference"]["low"] is None


@pytest.mark.parametrize("accuracy", [math.nan, None])
def test_an_accuracy_that_is_none_is_in_no_pair_and_in_no_mean(accuracy: float | None) -> None:
    odd = REPORTS | {("linear", 0): {**REPORTS["linear", 0], "accuracy": accuracy, "loss": math.nan}}
    document = analysed(odd)
    linear = row(document, "linear")
    assert linear["accuracy"]["by_seed"] == {"1": 0.93}
    assert linear["accuracy_difference"]["n"] == linear["equal_compute_difference"]["n"] == 1
    assert linear["flops_ratio"]["n"] == 2
    json.dumps(document, allow_nan=False)


def test_a_run_that_counted_no_flops_spent_some_all_the_same() -> None:
    linear = row(analysed(REPORTS | {("linear", 0): report(0.89, 0.0)}), "linear")
    assert linear["flops_ratio"]["by_seed"].keys() == linear["equal_compute_difference"]["by_seed"].keys() == {"1"}


def test_what_failed_or_is_missing_is_named() -> None:
    comparison = parse(definition())
    runs = expand(comparison)
    found = results(runs, {key: value for key, value in REPORTS.items() if key != ("linear", 0)})
    failed = next(run for run in runs if run.id == "digits--early-stop--1")
    found[failed.id] = {key: value for key, value in record(failed, {}).items() if key != "report"}
    found[failed.id] |= {"status": "failed", "error": "host_oom: too little memory"}
    document = analyse(comparison, runs, found)
    assert document["unfinished"] == ["digits--linear--0"]
    assert document["failed"] == {"digits--early-stop--1": "host_oom: too little memory"}
    assert row(document, "early-stop")["n"] == 1


@pytest.mark.parametrize("kept", [{"instructions": "AVX2"}, {"instructions": "AVX512"}, {"device_name": "x86_64"}])
def test_a_run_that_may_round_otherwise_than_its_full_training_is_marked(kept: dict[str, str]) -> None:
    here = {"device_name": "a processor", "instructions": "AVX2", "threads_per_rank": 1}
    reports = {key: {**found, "machine": here} for key, found in REPORTS.items()}
    reports["linear", 1] = {**reports["linear", 1], "machine": here | kept}
    document = analysed(reports)
    assert row(document, "linear")["notes"] == ([] if here | kept == here else [ELSEWHERE])
    assert row(document, "full")["notes"] == row(document, "shorter-0.5")["notes"] == []


@pytest.mark.parametrize("rival", ["shorter-0.5", "early-stop"])
def test_a_run_whose_rival_may_round_otherwise_is_marked_too(rival: str) -> None:
    here = {"device_name": "a processor", "instructions": "AVX2", "threads_per_rank": 1}
    reports = {key: {**found, "machine": here} for key, found in REPORTS.items()}
    reports[rival, 0] = {**reports[rival, 0], "machine": here | {"instructions": "AVX512"}}
    document = analysed(reports)
    assert row(document, "linear")["notes"] == [RIVALS_ELSEWHERE]
    assert row(document, rival)["notes"] == [ELSEWHERE]
    assert row(document, "full")["notes"] == row(document, "shorter-0.75")["notes"] == []


def test_a_run_without_full_training_has_nothing_to_differ_from() -> None:
    alone = {key: value for key, value in REPORTS.items() if key[0] == "linear"}
    assert row(analysed(alone), "linear")["notes"] == []


def test_what_is_noted_of_a_run_stands_under_the_table_once() -> None:
    comparison = parse(definition())
    runs = expand(comparison)
    found = results(runs, REPORTS)
    for run in runs:
        if run.arm == "linear":
            found[run.id]["note"] = "of another machine"
    document = analyse(comparison, runs, found)
    assert row(document, "linear")["notes"] == ["of another machine"]
    assert row(document, "full")["notes"] == []
    page = markdown(document, {}).splitlines()
    assert sum(line.startswith("| linear † |") for line in page) == 1
    assert page.count("† of another machine") == 1
    assert not any(line.startswith("| full †") for line in page)


def test_nothing_at_all_is_a_document_too() -> None:
    document = analysed({})
    assert len(document["unfinished"]) == 10
    assert document["checks"] == []


def test_bounds_are_checked_on_each_workload_and_what_was_not_measured_fails() -> None:
    bounds = [
        {"arm": "linear", "measure": "accuracy_difference", "at_least": -0.002},
        {"arm": "linear", "measure": "flops_speedup", "at_least": 2.5},
        {"arm": "linear", "measure": "flops_ratio", "at_most": 0.7001},
        {"arm": "full", "measure": "early_stop_difference", "at_least": 0},
    ]
    document = analysed(REPORTS, bounds=bounds)
    assert document["checks"][:4] == [
        {"measure": "digits: linear: accuracy_difference (at least)", "value": 0.0, "bound": -0.002, "ok": True},
        {"measure": "digits: linear: flops_speedup (at least)", "value": 1.4286, "bound": 2.5, "ok": False},
        {"measure": "digits: linear: flops_ratio (at most)", "value": 0.7, "bound": 0.7001, "ok": True},
        {"measure": "digits: full: early_stop_difference (at least)", "value": None, "bound": 0, "ok": False},
    ]
    unbound = document["checks"][4:]
    assert {check["ok"] for check in unbound} == {None}
    assert "digits: linear: wall_ratio" in {check["measure"] for check in unbound}
    assert "digits: linear: flops_ratio" not in {check["measure"] for check in unbound}
