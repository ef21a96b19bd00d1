"""Means over seeds with their intervals. Pure."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from client.flows import Json
from freezer.student import student

RESAMPLES = 4000
CONFIDENCE = 0.95
SEED = 0
HOW = (
    f"Student's t over seeds, {CONFIDENCE:.0%}; differences and ratios are taken seed by seed first. With n below 2 "
    f"there is none. The JSON holds a percentile bootstrap beside it ({RESAMPLES} resamples, seed {SEED}), which is "
    "too narrow for few seeds: of three it is no more than their range"
)
Source = Literal["measured", "estimated"]


@dataclass(frozen=True, slots=True)
class Stat:
    """One figure over seeds. ``low`` and ``high`` (Student's t) and ``resampled`` are ``None`` below two seeds."""

    by_seed: Mapping[int, float]
    mean: float
    low: float | None
    high: float | None
    resampled: tuple[float | None, float | None]
    source: Source

    @property
    def n(self) -> int:
        return len(self.by_seed)

    def to_json(self) -> Json:
        by_seed = {str(seed): value for seed, value in self.by_seed.items()}
        interval = {"mean": self.mean, "low": self.low, "high": self.high, "bootstrap": list(self.resampled)}
        return {**interval, "n": self.n, "source": self.source, "by_seed": by_seed}


def stat(by_seed: Mapping[int, float | None], source: Source = "measured") -> Stat | None:
    """Of the seeds that have a value; ``None`` where none has."""
    known = {seed: value for seed, value in by_seed.items() if value is not None}
    if not known:
        return None
    values = tuple(known.values())
    low, high = student(values)
    return Stat(known, fmean(values), low, high, bootstrap(values), source)


def bootstrap(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Percentile interval of the mean (Efron 1979); the same values give the same interval."""
    n = len(values)
    if n < 2:
        return None, None
    means = sorted(sum(values[i] for i in draw) / n for draw in _draws(n))
    tail = (1.0 - CONFIDENCE) / 2.0
    return _quantile(means, tail), _quantile(means, 1.0 - tail)


@functools.cache
def _draws(n: int) -> tuple[tuple[int, ...], ...]:
    source = random.Random(SEED)
    return tuple(tuple(source.choices(range(n), k=n)) for _ in range(RESAMPLES))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between order statistics."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def difference(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> dict[int, float | None]:
    """Ours less theirs, of each seed that both have."""
    return {seed: _both(ours[seed], theirs[seed], lambda a, b: a - b) for seed in ours if seed in theirs}


def ratio(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> dict[int, float | None]:
    """Ours over theirs, of each seed that both have; nothing where theirs is 0."""
    return {seed: _both(ours[seed], theirs[seed], lambda a, b: a / b if b else None) for seed in ours if seed in theirs}


def _both(a: float | None, b: float | None, of: Callable[[float, float], float | None]) -> float | None:
    return None if a is None or b is None else of(a, b)
