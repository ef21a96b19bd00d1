"""Totals that outlive the jobs: what each write adds to them. Pure; the store adds in the same atomic write.

Names are ``freeze:<policy>:<action>``, ``flops_saved``, and of the histograms ``queue_wait:<bound>`` and
``run:<status>:<bound>`` (how many were at most so long, and longer than the next lower bound), with the seconds
together under ``...:sum``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.jobs.record import JobRecord

BOUNDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 168 * 3600)
"""Seconds: from a job that finds an idle worker to one that trains for a week."""

ABOVE = "+Inf"


def of_decision(decision: Mapping[str, Any]) -> dict[str, float]:
    """Units that a decision froze and thawed, by policy; nothing where it names none."""
    policy, counts = decision.get("policy"), {"freeze": "frozen", "thaw": "thawed"}
    found = {f"freeze:{policy}:{action}": float(len(decision.get(units) or ())) for action, units in counts.items()}
    return {name: count for name, count in found.items() if count and policy}


def of_change(before: JobRecord, after: JobRecord) -> dict[str, float]:
    """What a change of a record adds: the wait of a job that is taken for the first time, the time and savings of one
    that ends. A job that never ran has no run time.
    """
    found: dict[str, float] = {}
    if after.fence == 1 and before.fence == 0 and after.started_at is not None:
        found |= _observed("queue_wait", after.started_at - before.queued_at)
    if after.terminal and not before.terminal and after.fence:
        found |= _observed(f"run:{after.status}", after.run_seconds)
        saved = after.summary.get("flops_saved") or 0.0
        if saved > 0:  # a counter never falls
            found["flops_saved"] = float(saved)
    return found


def histogram(tallies: Mapping[str, float], name: str) -> tuple[list[tuple[str, float]], float]:
    """``(bound, how many were at most so long)`` for each bound, and the seconds together, as Prometheus wants them."""
    buckets, count = [], 0.0
    for bound in (*map(str, BOUNDS), ABOVE):
        count += tallies.get(f"{name}:{bound}", 0.0)
        buckets.append((bound, count))
    return buckets, tallies.get(f"{name}:sum", 0.0)


def _observed(name: str, seconds: float) -> dict[str, float]:
    seconds = max(0.0, seconds)
    bound = next((str(b) for b in BOUNDS if seconds <= b), ABOVE)
    return {f"{name}:{bound}": 1.0, f"{name}:sum": seconds}
