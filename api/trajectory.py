"""The recorded window of one unit as moments. Pure; standard library only, since the API carries no numpy."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence

from api.schemas import TrajectoryPoint
from freezer.windows import Snapshot


def unpack(data: bytes) -> array[float]:
    """float32 little-endian bytes as numbers."""
    values = array("f")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def summarize(window: Sequence[Snapshot], *, values: bool = False) -> list[TrajectoryPoint]:
    """Mean and standard deviation of each snapshot, and its root mean square distance from the window's first.

    Snapshots whose number of samples differs from the first one's have no distance: NaN, which JSON shows as null.
    """
    points = []
    first = unpack(window[0].values) if window else array("f")
    for snapshot in window:
        sample = unpack(snapshot.values)
        count = len(sample)
        mean = sum(sample) / count if count else math.nan
        spread = math.sqrt(sum((x - mean) ** 2 for x in sample) / count) if count else math.nan
        comparable = count and count == len(first)
        drift = math.dist(sample, first) / math.sqrt(count) if comparable else math.nan
        points.append(
            TrajectoryPoint(
                step=snapshot.step,
                samples=count,
                mean=mean,
                std=spread,
                drift=drift,
                values=list(sample) if values else None,
            )
        )
    return points
