"""The table of a comparison against what the project promises. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client.flows import Json

SUBJECT = "smartfrz"
ACCURACY = -0.002
"""Least difference to full training, mean of seeds: 0.2 points."""
SPEEDUP = {"fine-tuning": 2.5, "scratch": 1.3}


def judge(table: Sequence[Json], kinds: Mapping[str, str]) -> list[Json]:
    """``{measure, value, bound, ok}`` for each promise; what was not measured has value ``None`` and is not kept.

    Args:
        table: of :func:`client.compare.analyse`.
        kinds: ``fine-tuning`` or ``scratch``, by workload.
    """
    rows = {(row["workload"], row["arm"]): row for row in table}
    found: list[Json] = []
    for workload, kind in kinds.items():
        row = rows.get((workload, SUBJECT), {})
        bound = SPEEDUP[kind]
        found.append(_least(f"{workload}: accuracy against full training", _mean(row, "accuracy_difference"), ACCURACY))
        found.append(_least(f"{workload}: FLOPs, full / ours", row.get("flops_speedup"), bound))
        found.append(_least(f"{workload}: seconds of training, full / ours", _inverse(row), bound))
    ours = [rows[key] for key in ((workload, SUBJECT) for workload in kinds) if key in rows]
    calendar = [_mean(row, "equal_compute_difference") for row in ours]
    found += _not_below("shortened full training at equal FLOPs", calendar, len(kinds))
    found.append(
        _least("early stopping: workloads where we are ahead, and behind in nothing", *_early(ours, len(kinds)))
    )
    others = [
        rival["accuracy_difference"]["mean"]
        for row in ours
        for name, rival in row["against"].items()
        if not name.startswith(SUBJECT)  # its own settings are no rivals
        if rival["accuracy_difference"] and rival["flops_ratio"] and rival["flops_ratio"]["mean"] <= 1.0
    ]
    return found + _not_below("other policies that spend as much or more", others, len(others))


def _not_below(rival: str, differences: Sequence[float | None], expected: int) -> list[Json]:
    known = [value for value in differences if value is not None]
    whole = bool(known) and len(known) == expected
    worst = min(known) if whole else None
    above = sum(value > 0 for value in known) / len(known) if whole else None
    return [
        _least(f"accuracy against {rival}: the worst", worst, 0.0),
        _least(f"accuracy against {rival}: share above", above, 0.5),
    ]


def _early(rows: Sequence[Json], expected: int) -> tuple[float | None, float]:
    """How many workloads, of how many."""
    good = 0
    for row in rows:
        rival = row["against"].get("early-stop")
        if not rival or not rival["accuracy_difference"] or not rival["flops_ratio"]:
            return None, float(expected)
        more, less = rival["accuracy_difference"]["mean"], 1.0 - rival["flops_ratio"]["mean"]
        good += min(more, less) >= 0 and max(more, less) > 0
    return (float(good) if len(rows) == expected else None), float(expected)


def _mean(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None else float(value["mean"])


def _inverse(row: Mapping[str, Any]) -> float | None:
    value = _mean(row, "train_seconds_ratio")
    return 1.0 / value if value else None


def _least(measure: str, value: float | None, bound: float) -> Json:
    shown = None if value is None else round(value, 4)
    return {"measure": measure, "value": shown, "bound": bound, "ok": value is not None and value >= bound}
