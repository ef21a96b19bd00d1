"""Metrics of a job from the files of its attempts: merged, and thinned for drawing. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from api.schemas import Series

Row = dict[str, Any]
"""One line of ``metrics.jsonl``: ``step``, ``at`` and values by name."""

KEPT = 40_000
"""Points of one metric in memory at most, whatever a file holds; twice as many as an answer may have."""


def parse_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """Lines as rows; a cut last line, and what is no row, is left out."""
    for line in lines:
        try:
            row = from_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def merge_attempts(attempts: Sequence[tuple[int, Iterable[Row]]]) -> Iterator[Row]:
    """One history, by step: a later attempt supersedes all that earlier ones wrote from its first step on.

    An attempt resumes at its checkpoint, so what its predecessor did after that step did not happen to the model.

    Args:
        attempts: first step and rows of each, oldest first; the steps of an attempt never fall.
    """
    for number, (_, rows) in enumerate(attempts, 1):
        end = min((first for first, _ in attempts[number:]), default=math.inf)
        for row in rows:
            if row["step"] >= end:
                break
            yield row


def to_series(rows: Iterable[Row], *, names: Collection[str] = (), max_points: int, expected: int = 0) -> list[Series]:
    """Columns by metric, sorted by name, each thinned to at most ``max_points``.

    Args:
        expected: about how many rows will come. Where they are more than ``KEPT``, each column is thinned as it grows.
    """
    columns: dict[str, _Column] = {}
    width = 1 if expected <= KEPT else math.ceil(2 * expected / KEPT)
    for row in rows:
        for name, value in row.items():
            if name in ("step", "at") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not names or name in names:
                column = columns.get(name) or columns.setdefault(name, _Column(width))
                column.add(row["step"], float(value) if math.isfinite(value) else None)
    series = []
    for name in sorted(columns):
        column = columns[name]
        column.close()
        keep = downsample(column.values, max_points)
        thin_steps, thin_values = [column.steps[i] for i in keep], [column.values[i] for i in keep]
        series.append(Series(name=name, steps=thin_steps, values=thin_values, points=column.points))
    return series


@dataclass(slots=True)
class _Column:
    """One metric. Of ``width`` points that follow one another the lowest and the highest are kept, and both ends."""

    width: int
    points: int = 0
    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    _new_steps: list[int] = field(default_factory=list)
    _new_values: list[float | None] = field(default_factory=list)

    def add(self, step: int, value: float | None) -> None:
        """Steps rise; of two points at one step the later holds."""
        if self._new_steps and step <= self._new_steps[-1]:
            if step == self._new_steps[-1]:
                self._new_values[-1] = value
            return
        if len(self._new_steps) == self.width:
            self._thin(_extremes(self._new_values, range(self.width)))
        self._new_steps.append(step)
        self._new_values.append(value)
        self.points += 1

    def close(self) -> None:
        """No more points will come: the last one is kept as well."""
        last = len(self._new_steps) - 1
        self._thin(sorted({*_extremes(self._new_values, range(last + 1)), last}))

    def _thin(self, keep: Iterable[int]) -> None:
        if not self.steps:
            keep = sorted({0, *keep})
        self.steps += [self._new_steps[i] for i in keep]
        self.values += [self._new_values[i] for i in keep]
        self._new_steps.clear()
        self._new_values.clear()


def downsample(values: Sequence[float | None], max_points: int) -> list[int]:
    """Indices of at most ``max_points`` values, ascending: the ends, and minimum and maximum of equal buckets between.

    So no spike is lost, whatever the width of the drawing. ``None`` (not finite) is kept only where a bucket holds
    nothing else.

    Raises:
        ValueError: fewer than 4 points asked for.
    """
    if max_points < 4:
        raise ValueError("max_points must be at least 4")
    total = len(values)
    if total <= max_points:
        return list(range(total))
    buckets, inner = (max_points - 2) // 2, total - 2
    keep = [0]
    for bucket in range(buckets):
        span = range(1 + bucket * inner // buckets, 1 + (bucket + 1) * inner // buckets)
        keep += _extremes(values, span)
    return [*keep, total - 1]


def _extremes(values: Sequence[float | None], span: range) -> list[int]:
    """Indices of the lowest and the highest value in a span, ascending; its first where none is finite."""
    finite = [(value, i) for i in span if (value := values[i]) is not None]
    return sorted({min(finite)[1], max(finite)[1]}) if finite else [span[0]]
