"""From similarity curves to labels: when did a unit converge?

A unit has converged at the first probe that ends a window of ``window`` probes in which its CKA against the finished
model stays above ``level`` and has a variance below ``variance``; from the *start* of that window on (the paper's
re-implementation back-fills the window that fires), and for good (sticky). The re-implementation used 20 epochs,
variance 1e-4 and level 0.3 for runs of a hundred epochs and more. Ours have 20 probes, hence the window of 4; and their
data is easy, so that untrained first layers start above 0.9 already, hence the level of 0.98, with a variance of
2.5e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from freezer.offline.corpus import Run, load_run, run_names, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Thresholds of convergence. Raw curves are kept, so that labels can be made anew with others."""

    window: int = 4
    variance: float = 2.5e-5
    level: float = 0.98


def converged_at(curve: Sequence[float], steps: Sequence[int], rule: Rule) -> int | None:
    """The step from which a unit counts as converged, or ``None``. NaN never converges.

    A window that reaches the finished model itself (the last probe, similarity 1 by definition) does not count:
    otherwise every unit would converge.
    """
    for end in range(rule.window, len(curve)):
        part = torch.tensor(curve[end - rule.window : end], dtype=torch.float64)
        if bool(part.isnan().any()):
            continue
        if float(part.min()) > rule.level and float(part.var(unbiased=False)) < rule.variance:
            return steps[end - rule.window]
    return None


def label_run(run: Run, rule: Rule) -> dict[str, int | None]:
    """Step of convergence of every unit of a run."""
    steps = [int(step) for step in run.probe_steps]
    return {
        name: converged_at([float(v) for v in run.cka[:, index]], steps, rule)
        for index, name in enumerate(run.meta.units)
    }


def label_corpus(directory: Path, rule: Rule) -> dict[str, dict[str, int | None]]:
    """Label every run of a corpus, write ``<run>.labels.json`` beside it, and return all labels."""
    everything = {}
    for name in run_names(directory):
        run = load_run(directory, name)
        labels = label_run(run, rule)
        write_json(directory / f"{name}.labels.json", {"rule": asdict(rule), "converged_at": labels})
        everything[name] = labels
    return everything


def positive_share(run: Run, labels: dict[str, int | None]) -> float:
    """Share of unit-steps of a run that count as converged: the base rate of the windows drawn from it."""
    total = run.meta.total_steps
    shares = [0.0 if (step := labels[name]) is None else 1.0 - step / total for name in run.meta.units]
    return sum(shares) / len(shares) if shares else math.nan
