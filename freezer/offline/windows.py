"""Training examples: windows of random length, spacing and end cut from recorded runs, with their labels."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from freezer.offline.corpus import Run, load_run
from freezer.predictor.features import Window, drift

LENGTHS = (4, 30)
"""Shortest and longest window drawn, in snapshots."""
FULL = 30


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled window and where it comes from; ``unit`` is the position in execution order."""

    window: Window
    label: bool
    network: str
    dataset: str
    run: str
    unit: int


def cut(run: Run, unit: int, end: int, length: int, stride: int) -> Window:
    """The window of ``length`` snapshots, ``stride`` recorded snapshots apart, that ends with snapshot ``end``."""
    rows = list(range(end - (length - 1) * stride, end + 1, stride))
    before = run.values[:, :unit]
    return Window(
        values=run.values[rows, unit],
        steps=tuple(int(run.steps[row]) for row in rows),
        total_steps=run.meta.total_steps,
        depth=unit / max(1, len(run.meta.units) - 1),
        lr_ratio=float(run.lr[end]),
        upstream=tuple(drift(before[rows[0]], before[rows[-1]]).tolist()),
    )


def draw(
    run: Run,
    labels: Mapping[str, int | None],
    per_unit: int,
    seed: int,
    length: int | None = None,
) -> list[Example]:
    """``per_unit`` windows of every unit but the head, with ends at random over the run, the first half of it favoured.

    The spacing is drawn evenly in the logarithm, from every recorded step up to a span of half of the run, as short and
    long runs with their various settings have it. Every other window has :data:`FULL` snapshots, which is what the
    paper's predictor reads; ``length`` fixes the number for all.
    """
    rng = random.Random(f"{seed}/{run.meta.name}")
    count = len(run.steps)
    examples = []
    for unit, name in enumerate(run.meta.units[:-1]):
        if bool(run.cka[:, unit].isnan().any()):
            continue  # its output never varies, so nothing is known about it
        for number in range(per_unit):
            drawn = FULL if number % 2 else rng.randint(*LENGTHS)
            snapshots = length if length is not None else drawn
            snapshots = min(snapshots, count)
            # Squared for every other window: the early decisions are the ones that are worth something.
            place = rng.random() ** rng.choice((1, 2))
            end = snapshots - 1 + round(place * (count - snapshots))
            most = max(1, min(end, count // 2) // (snapshots - 1))
            stride = round(math.exp(rng.uniform(0.0, math.log(most))))
            step, converged = int(run.steps[end]), labels[name]
            examples.append(
                Example(
                    cut(run, unit, end, snapshots, stride),
                    converged is not None and step >= converged,
                    run.meta.network,
                    run.meta.dataset,
                    run.meta.name,
                    unit,
                )
            )
    return examples


def load_examples(
    directory: Path,
    names: Iterable[str],
    labels: Mapping[str, Mapping[str, int | None]],
    per_unit: int,
    seed: int,
    length: int | None = None,
) -> list[Example]:
    """:func:`draw` over runs on disk."""
    examples: list[Example] = []
    for name in names:
        examples += draw(load_run(directory, name), labels[name], per_unit, seed, length)
    return examples
