"""From the records of runs to a table, paired by seed. Pure.

Compute is FLOPs as a report counts them, the forward cache included. Names of a report keep their meaning: FLOPs are
estimated (counted on one batch, times the steps), accuracy, seconds and all-reduce bytes are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from client.compare.calendar import Point, curves_of, levels
from client.compare.checks import checks_of
from client.compare.definition import Comparison, Workload
from client.compare.expand import Run, starts_of
from client.compare.machines import elsewhere, rivals_elsewhere
from client.compare.statistics import HOW, difference, ratio, stat
from client.compare.timeline import timeline
from client.flows import Json
from workers.jobs.codec import finite

Values = dict[int, float | None]
KEPT = (
    "accuracy",
    "loss",
    "test_samples",
    "train_samples",
    "steps",
    "planned_steps",
    "epochs",
    "stopped_early",
    "resumes",
    "wall_seconds",
    "train_seconds",
    "evaluate_seconds",
    "units",
    "frozen_units",
    "flops",
    "allreduce_bytes",
)
"""Of a report, what is listed of each run."""


def analyse(comparison: Comparison, runs: Sequence[Run], results: Mapping[str, Json]) -> Json:
    """The document of ``comparison.json``.

    Args:
        runs: all of the comparison (:func:`client.compare.expand`).
        results: records of those that ended, by id (:meth:`client.compare.Folder.results`). Seconds are held against
            each other only where ``measured_in``, which a record need not have, is the same. What a ``note`` says of a
            record stands under the table, and so does that it ran on another machine than its full training.
    """
    reports = {
        run.id: {**found["report"], "measured_in": found.get("measured_in"), "note": found.get("note")}
        for run in runs
        if (found := results.get(run.id)) and "report" in found
    }
    table: list[Json] = []
    curves: Json = {}
    for workload in comparison.workloads:
        of_arm = {
            arm.name: {run.seed: reports[run.id] for run in mine if run.id in reports}
            for arm in comparison.arms
            if (mine := [run for run in runs if (run.workload, run.arm) == (workload.name, arm.name)])
        }
        kinds = {arm.name: str(arm.kind) for arm in comparison.arms}
        rows, curve = _workload_rows(workload.name, of_arm, kinds)
        table += rows
        curves[workload.name] = {str(seed): points for seed, points in curve.items()}
    return {
        "name": comparison.name,
        "seeds": {workload.name: list(workload.seeds) for workload in comparison.workloads},
        "test_from": {workload.name: _test_from(workload) for workload in comparison.workloads},
        "intervals": HOW,
        "checks": checks_of(comparison.bounds, table),
        "table": table,
        "curves": curves,
        "starts": [_start(start, found) for start in starts_of(runs) if (found := results.get(start.id))],
        "timelines": [
            found
            for workload in comparison.workloads
            for arm in comparison.arms
            if (found := timeline(workload.name, arm.name, _records(runs, results, workload.name, arm.name)))
        ],
        "unfinished": [run.id for run in runs if run.id not in results],
        "failed": {run.id: results[run.id].get("error") for run in runs if _failed(results.get(run.id))},
        "machines": _different(reports, "machine"),
        "versions": _different(reports, "versions"),
        "runs": [_run(run, results[run.id]) for run in runs if run.id in results],
    }


def _test_from(workload: Workload) -> str:
    """What its runs are scored on; as the spec's default where it says nothing."""
    return str(workload.spec["data"].get("test_from", "test"))


def _workload_rows(
    name: str, of_arm: Mapping[str, Mapping[int, Json]], kinds: Mapping[str, str]
) -> tuple[list[Json], dict[int, list[tuple[float, float]]]]:
    accuracy = {arm: _of(reports, "accuracy") for arm, reports in of_arm.items()}
    flops = {arm: _flops(reports) for arm, reports in of_arm.items()}
    wall = {arm: _wall(reports) for arm, reports in of_arm.items()}
    train = {arm: _of(reports, "train_seconds") for arm, reports in of_arm.items()}
    places = {arm: {seed: report["measured_in"] for seed, report in reports.items()} for arm, reports in of_arm.items()}

    def quicker(seconds: Mapping[str, Values], arm: str, rival: str) -> Values:
        """Ratio of seconds, of runs that were measured in one place."""
        found = ratio(seconds[arm], seconds[rival])
        return {seed: value if places[arm][seed] == places[rival][seed] else None for seed, value in found.items()}

    reduced = {arm: _of(reports, "allreduce_bytes", "measured") for arm, reports in of_arm.items()}
    share = {arm: ratio(flops[arm], flops["full"]) for arm in of_arm}
    calendar = [arm for arm in of_arm if kinds[arm] in ("full", "shorter")]
    lengths = {arm: _points(share[arm], accuracy[arm]) for arm in calendar}
    rivals = [arm for arm in of_arm if kinds[arm] in ("early-stop", "policy")]
    early = next((arm for arm in rivals if kinds[arm] == "early-stop"), None)
    against = [of_arm[rival] for rival in (*calendar, *filter(None, [early]))]
    rows = []
    for arm, reports in of_arm.items():
        wall_ratio = stat(quicker(wall, arm, "full"))
        flops_ratio = stat(share[arm], "estimated")
        held_against = against if arm in rivals else []
        apart = elsewhere(reports, of_arm.get("full", {})) or rivals_elsewhere(reports, held_against)
        row: dict[str, Any] = {
            "workload": name,
            "arm": arm,
            "kind": kinds[arm],
            "n": len(reports),
            "notes": sorted({report["note"] for report in reports.values() if report["note"]}) + apart,
            "units": next((report.get("units") for report in reports.values()), None),
            "steps": stat(_of(reports, "steps")),
            "frozen_units": stat(_of(reports, "frozen_units")),
            "accuracy": stat(accuracy[arm]),
            "accuracy_difference": stat(difference(accuracy[arm], accuracy["full"])),
            "flops": stat(flops[arm], "estimated"),
            "flops_ratio": flops_ratio,
            "flops_speedup": 1.0 / flops_ratio.mean if flops_ratio and flops_ratio.mean else None,
            "wall_seconds": stat(wall[arm]),
            "wall_ratio": wall_ratio,
            "wall_speedup": 1.0 / wall_ratio.mean if wall_ratio and wall_ratio.mean else None,
            "train_seconds_ratio": stat(quicker(train, arm, "full")),
            "allreduce_bytes_ratio": stat(ratio(reduced[arm], reduced["full"])),
            "equal_compute_difference": None,
            "early_stop_difference": None,
            "against": {},
        }
        if arm in rivals:
            row["equal_compute_difference"] = stat(difference(accuracy[arm], levels(lengths, share[arm])))
            if early is not None and early != arm:
                row["early_stop_difference"] = stat(difference(accuracy[arm], accuracy[early]))
            row["against"] = {
                rival: {
                    "accuracy_difference": _json(stat(difference(accuracy[arm], accuracy[rival]))),
                    "flops_ratio": _json(stat(ratio(flops[arm], flops[rival]), "estimated")),
                    "wall_ratio": _json(stat(quicker(wall, arm, rival))),
                }
                for rival in rivals
                if rival != arm
            }
        rows.append({key: _json(value) for key, value in row.items()})
    return rows, curves_of(lengths)


def _points(share: Values, accuracy: Values) -> dict[int, Point]:
    """By seed: FLOPs over full training's, and accuracy."""
    return {seed: (x, y) for seed, x in share.items() if x is not None and (y := accuracy.get(seed)) is not None}


def _of(reports: Mapping[int, Json], *path: str) -> Values:
    """One number of each report, by seed; what is not finite was not measured."""
    values: Values = {}
    for seed, report in reports.items():
        value: Any = report
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        values[seed] = float(value) if known else None
    return values


def _flops(reports: Mapping[int, Json]) -> Values:
    """None of a run that counted none: it spent some all the same."""
    return {seed: value or None for seed, value in _of(reports, "flops", "this_run").items()}


def _wall(reports: Mapping[int, Json]) -> Values:
    """Only of runs that were not resumed: after a resume the report's wall time is of the last attempt alone."""
    wall = _of(reports, "wall_seconds")
    return {seed: None if reports[seed].get("resumes") else value for seed, value in wall.items()}


def _json(value: Any) -> Any:
    return value.to_json() if hasattr(value, "to_json") else value


def _records(runs: Sequence[Run], results: Mapping[str, Json], workload: str, arm: str) -> dict[int, Json]:
    mine = [run for run in runs if (run.workload, run.arm) == (workload, arm)]
    return {run.seed: results[run.id] for run in mine if "report" in results.get(run.id, {})}


def _failed(record: Json | None) -> bool:
    return record is not None and record["status"] != "succeeded"


def _different(reports: Mapping[str, Json], key: str) -> list[Any]:
    """Each value once, in the order of the runs."""
    found: list[Any] = []
    for report in reports.values():
        if (value := report.get(key)) is not None and value not in found:
            found.append(value)
    return found


def _start(start: Run, record: Json) -> Json:
    """What the runs of a seed start from; ``seconds`` of the whole job."""
    report = record.get("report") or {}
    seconds = report.get("wall_seconds")
    return {"workload": start.workload, "seed": start.seed, "accuracy": report.get("accuracy"), "seconds": seconds}


def _run(run: Run, record: Json) -> Json:
    head = {"workload": run.workload, "arm": run.arm, "kind": run.kind, "seed": run.seed, "digest": run.digest}
    about = {name: record.get(name) for name in ("status", "error", "job_id", "tries", "workers")}
    report = record.get("report") or {}
    return {**head, **about, **{name: finite(report[name]) for name in KEPT if name in report}}
