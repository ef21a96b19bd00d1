"""The table as the list of ``{measure, value, bound, ok}`` that every benchmark here gives. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from client.compare.definition import Bound
from client.flows import Json

SHOWN = ("accuracy", "accuracy_difference", "flops_ratio", "wall_ratio", "equal_compute_difference")
"""Measures that are listed without a bound too, where they were measured."""


def checks_of(bounds: Sequence[Bound], table: Sequence[Json]) -> list[Json]:
    """One entry for each bound and workload, then what has no bound.

    A bound on what was not measured is not met: its value is null and ``ok`` false.
    """
    rows = {(row["workload"], row["arm"]): row for row in table}
    listed: list[Json] = []
    bounded: set[tuple[str, str, str]] = set()
    for bound in bounds:
        for workload in bound.workloads:
            bounded.add((workload, bound.arm, bound.measure))
            value = value_of(rows.get((workload, bound.arm)), bound.measure)
            listed.append(_entry(workload, bound, value))
    for row in table:
        for measure in SHOWN:
            if (row["workload"], row["arm"], measure) in bounded or (row["kind"] == "full" and measure != "accuracy"):
                continue
            if (value := value_of(row, measure)) is not None:
                name = f"{row['workload']}: {row['arm']}: {measure}"
                listed.append({"measure": name, "value": round(value, 4), "bound": None, "ok": None})
    return listed


def value_of(row: Json | None, measure: str) -> float | None:
    """A measure's mean over the seeds."""
    value: Any = (row or {}).get(measure)
    if isinstance(value, dict):
        value = value["mean"]
    return float(value) if value is not None else None


def _entry(workload: str, bound: Bound, value: float | None) -> Json:
    least = bound.at_least is not None
    limit = bound.at_least if bound.at_least is not None else bound.at_most
    assert limit is not None
    ok = value is not None and (value >= limit if least else value <= limit)
    name = f"{workload}: {bound.arm}: {bound.measure} ({'at least' if least else 'at most'})"
    return {"measure": name, "value": None if value is None else round(value, 4), "bound": limit, "ok": ok}
