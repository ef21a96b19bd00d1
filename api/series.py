"""Metrics of a job from the files of its attempts: merged, and thinned for drawing. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from api.schemas import Series

Row = dict[str, Any]
"""One line of ``metrics.jsonl``: ``step``, ``at`` and values by name."""


def parse_rows(lines: Iterable[str]) -> list[Row]:
    """Lines as rows; a cut last line, and what is no row, is left out."""
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def merge_attempts(attempts: Sequence[Sequence[Row]]) -> list[Row]:
    """One history, by step: a later attempt supersedes all that earlier ones wrote from its first step on.

    An attempt resumes at its checkpoint, so what its predecessor did after that step did not happen to the model.
    """
    merged: list[Row] = []
    for rows in attempts:
        if rows:
            first = min(row["step"] for row in rows)
            merged = [row for row in merged if row["step"] < first] + list(rows)
    return sorted(merged, key=lambda row: row["step"])


def to_series(rows: Sequence[Row], *, names: Collection[str] = (), max_points: int) -> list[Series]:
    """Columns by metric, sorted by name, each thinned to at most ``max_points``."""
    columns: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "at") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not names or name in names:
                finite = float(value) if math.isfinite(value) else None
                columns.setdefault(name, {})[row["step"]] = finite
    series = []
    for name in sorted(columns):
        steps, values = list(columns[name]), list(columns[name].values())
        keep = downsample(values, max_points)
        thin_steps, thin_values = [steps[i] for i in keep], [values[i] for i in keep]
        series.append(Series(name=name, steps=thin_steps, values=thin_values, points=len(steps)))
    return series


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
        finite = [(value, i) for i in span if (value := values[i]) is not None]
        keep += sorted({min(finite)[1], max(finite)[1]}) if finite else [span[0]]
    return [*keep, total - 1]
