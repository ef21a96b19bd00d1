"""The tables of the comparisons against what the project promises. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from client.flows import Json

SUBJECT = "smartfrz"
ACCURACY = -0.002
"""Least difference to full training, mean of seeds: 0.2 points."""
SPEEDUP = {"fine-tuning": 2.5, "scratch": 1.3}
SEEDS = 3
"""Fewest that carry a promise about accuracy, and that a rival must share with ours to be held against it."""


def judge(confirmed: Sequence[Json], compared: Sequence[Json], kinds: Mapping[str, str]) -> list[Json]:
    """``{measure, value, bound, ok}`` for each promise; what was not measured has value ``None`` and is not kept.

    Args:
        confirmed: table of :func:`client.compare.analyse`, of seeds that decided nothing: full training, its shortened
            forms, early stopping, ours and some other policies.
        compared: the table with every policy, whose calendar and policies stand in where they were not run again.
        kinds: ``fine-tuning`` or ``scratch``, by workload.
    """
    rows = {row["workload"]: row for row in confirmed if row["arm"] == SUBJECT}
    found: list[Json] = []
    for workload, kind in kinds.items():
        row = rows.get(workload, {})
        bound = SPEEDUP[kind]
        found.append(_least(f"{workload}: accuracy against full training", _of_enough_seeds(row), ACCURACY))
        found.append(_least(f"{workload}: FLOPs, full / ours", row.get("flops_speedup"), bound))
        found.append(_least(f"{workload}: seconds of training, full / ours", _inverse(row), bound))
    ours = [rows[workload] for workload in kinds if workload in rows]
    before = {row["workload"]: row for row in compared if row["arm"] == SUBJECT}
    calendar = {w: _calendar(rows.get(w, {}), before.get(w, {})) for w in kinds}
    found += _not_below("shortened full training at equal FLOPs", calendar, len(kinds))
    found.append(
        _least("early stopping: workloads where we are ahead, and behind in nothing", *_early(ours, len(kinds)))
    )
    others = against_others(confirmed, compared)
    return found + _not_below("other policies that spend as much or more", others, len(others))


def against_others(confirmed: Sequence[Json], compared: Sequence[Json]) -> dict[str, float]:
    """Our accuracy less a rival's, by ``workload: rival``: policies of others that froze something, spent as much as
    ours or more, and share three seeds with it. Early stopping is no policy and is judged by itself.

    A rival that met ours on the seeds of ``confirmed`` is judged there, else by ``compared``.
    """
    arms = {row["arm"] for row in compared if not row["arm"].startswith(SUBJECT)}  # its own settings are no rivals
    met = _met(compared, arms) | _met(confirmed, arms)
    return {
        name: rival["accuracy_difference"]["mean"]
        for name, rival in met.items()
        if rival["flops_ratio"] and rival["flops_ratio"]["mean"] <= 1.0
    }


def _met(table: Sequence[Json], arms: Collection[str]) -> dict[str, Json]:
    """What of ours stands against those that froze something, on three seeds or more, by ``workload: rival``."""
    rows = {(row["workload"], row["arm"]): row for row in table}
    return {
        f"{workload}: {name}": rival
        for (workload, arm), row in rows.items()
        if arm == SUBJECT
        for name, rival in row["against"].items()
        if name in arms
        and freezes(rows.get((workload, name)))
        and rival["accuracy_difference"]
        and rival["accuracy_difference"]["n"] >= SEEDS
    }


def _calendar(*rows: Mapping[str, Any]) -> float | None:
    """Of the first that has it for all of its seeds."""
    for row in rows:
        if (found := row.get("equal_compute_difference")) and found["n"] == row["n"]:
            return float(found["mean"])
    return None


def freezes(row: Json | None) -> bool:
    """Whether a row of the table is of a policy that froze something."""
    return row is not None and row["kind"] == "policy" and bool((_mean(row, "frozen_units") or 0.0) > 0.0)


def _not_below(rival: str, differences: Mapping[str, float | None], expected: int) -> list[Json]:
    known = {name: value for name, value in differences.items() if value is not None}
    whole = bool(known) and len(known) == expected
    worst = min(known, key=known.__getitem__) if whole else None
    above = sum(value > 0 for value in known.values()) / len(known) if whole else None
    where = f" ({worst})" if worst else ""
    most = _least(f"accuracy against {rival}: share above, of {expected}", above, 0.5)
    most["ok"] = above is not None and above > 0.5  # most is more than half
    return [_least(f"accuracy against {rival}: the worst{where}", known[worst] if worst else None, 0.0), most]


def _early(rows: Sequence[Json], expected: int) -> tuple[float | None, float]:
    """How many workloads, of how many; a workload counts once early stopping ran with all of its seeds."""
    good = 0
    for row in rows:
        rival = row["against"].get("early-stop")
        if not rival or not rival["accuracy_difference"] or not rival["flops_ratio"]:
            return None, float(expected)
        if rival["accuracy_difference"]["n"] < row["n"]:
            return None, float(expected)
        more, less = rival["accuracy_difference"]["mean"], 1.0 - rival["flops_ratio"]["mean"]
        good += min(more, less) >= 0 and max(more, less) > 0
    return (float(good) if len(rows) == expected else None), float(expected)


def _mean(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None else float(value["mean"])


def _of_enough_seeds(row: Mapping[str, Any]) -> float | None:
    found = row.get("accuracy_difference")
    return float(found["mean"]) if found and found["n"] >= SEEDS else None


def _inverse(row: Mapping[str, Any]) -> float | None:
    value = _mean(row, "train_seconds_ratio")
    return 1.0 / value if value else None


def _least(measure: str, value: float | None, bound: float) -> Json:
    shown = None if value is None else round(value, 5)
    return {"measure": measure, "value": shown, "bound": bound, "ok": value is not None and value >= bound}
