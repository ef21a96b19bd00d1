"""Which aggressiveness to recommend, chosen on one half of the workloads and reported on the other, both ways. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, harmonic_mean

from benchmarks.policies.judge import ACCURACY
from client.flows import Json

SETTINGS = {"smartfrz-conservative": "conservative", "smartfrz": "balanced", "smartfrz-fast": "fast"}
"""Setting by arm, from the most careful to the boldest."""


def choose_and_report(
    table: Sequence[Json], halves: Mapping[str, Sequence[str]], settings: Mapping[str, str] = SETTINGS
) -> list[Json]:
    """One entry for each half: what it chooses, and what that does on the others.

    Chosen is the setting that saves most FLOPs among those that lose at most 0.2 points on average over the half's
    workloads, else the most careful one. Every workload weighs the same; only those count on which all settings ran.

    Args:
        table: of :func:`client.compare.analyse`.
        halves: workloads by the name of their half; two of them.
        settings: setting by arm, from the most careful to the boldest.

    Returns:
        ``chosen_on``, ``reported_on``: workloads; ``setting``; ``accuracy_difference`` in shares, the mean over the
        reported workloads; ``flops_speedup``: of as much full training on each of them; ``worst``: their least accuracy
        difference; ``seeds``: fewest of any run.
        Halves without a complete workload are left out.
    """
    rows = {(row["workload"], row["arm"]): row for row in table}
    whole = {
        name: [w for w in half if all(_known(rows.get((w, arm))) for arm in settings)] for name, half in halves.items()
    }
    found = []
    for name, half in whole.items():
        rest = [w for other, workloads in whole.items() if other != name for w in workloads]
        if not half or not rest:
            continue
        arm = _choice(rows, half, settings)
        there = [rows[workload, arm] for workload in rest]
        lost = [row["accuracy_difference"]["mean"] for row in there]
        found.append(
            {
                "chosen_on": half,
                "reported_on": rest,
                "setting": settings[arm],
                "accuracy_difference": fmean(lost),
                "worst": min(lost),
                "flops_speedup": harmonic_mean(row["flops_speedup"] for row in there),
                "seeds": min(row["accuracy_difference"]["n"] for row in there),
            }
        )
    return found


def _choice(rows: Mapping[tuple[str, str], Json], half: Sequence[str], settings: Mapping[str, str]) -> str:
    lost = {arm: fmean(rows[w, arm]["accuracy_difference"]["mean"] for w in half) for arm in settings}
    saved = {arm: harmonic_mean(rows[w, arm]["flops_speedup"] for w in half) for arm in settings}
    good = [arm for arm in settings if lost[arm] >= ACCURACY]
    return max(good, key=saved.__getitem__, default=next(iter(settings)))


def _known(row: Json | None) -> bool:
    return row is not None and row["accuracy_difference"] is not None and row["flops_speedup"] is not None
