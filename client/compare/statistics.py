"""Means over seeds with their intervals. Pure; standard library alone."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from client.flows import Json

RESAMPLES = 4000
CONFIDENCE = 0.95
SEED = 0
HOW = (
    f"Student's t over seeds, {CONFIDENCE:.0%}; differences and ratios are taken seed by seed first. With n below 2 "
    f"there is none. The JSON holds a percentile bootstrap beside it ({RESAMPLES} resamples, seed {SEED}), which is "
    "too narrow for few seeds: of three it is no more than their range"
)
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""97.5 % quantile of Student's t by degrees of freedom, from 1; beyond them the last, which is a little too wide."""
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


def student(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Interval of the mean by Student's t (1908): seeds are few, and their scatter is as unknown as their mean."""
    n = len(values)
    if n < 2:
        return None, None
    mean, reach = fmean(values), _T[min(n - 1, len(_T)) - 1] * stdev(values) / math.sqrt(n)
    return mean - reach, mean + reach


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
