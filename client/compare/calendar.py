"""Full training with its schedule shortened to the same compute: the rival that knows the right length. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

Point = tuple[float, float]
"""(FLOPs over full training's, accuracy); FLOPs are positive."""


def levels(curves: Mapping[int, Sequence[Point]], shares: Mapping[int, float | None]) -> dict[int, float]:
    """Accuracy of the calendar by seed, for what an arm spent with that seed.

    The length is chosen with hindsight: that of the arm's FLOPs, or any shorter one that was run and is better on the
    mean of the arm's seeds, for full training may be too long.

    Args:
        curves: points of full and shortened training, by seed.
        shares: FLOPs of the arm over full training's, by seed. Seeds outside of their curve are left out: nothing is
            extrapolated.
    """
    found = {
        seed: level
        for seed, x in shares.items()
        if x is not None and (level := interpolate(curves.get(seed, ()), x)) is not None
    }
    if not found:
        return {}
    of = [dict(curves[seed]) for seed in found]
    within = min(x for seed in found if (x := shares[seed]) is not None)
    for length in sorted(set.intersection(*(set(points) for points in of))):
        at = {seed: points[length] for seed, points in zip(found, of, strict=True)}
        if length < within and fmean(at.values()) > fmean(found.values()):
            found = at
    return found


def interpolate(points: Sequence[Point], x: float) -> float | None:
    """The height at ``x`` between the points; exact at a point, the mean of points at one place.

    Straight in the logarithm of compute, in which accuracy rises more nearly in a line: straight in compute itself, the
    chords of a curve that bends would lie below it, and flatter whoever is held against them.

    ``None`` outside of the points, and for fewer than two places.
    """
    heights: dict[float, list[float]] = {}
    for place, height in points:
        heights.setdefault(place, []).append(height)
    knots = sorted((place, fmean(found)) for place, found in heights.items())
    if len(knots) < 2 or not knots[0][0] <= x <= knots[-1][0]:
        return None
    for (x0, y0), (x1, y1) in itertools.pairwise(knots):
        if x == x0:
            return y0
        if x < x1:
            return y0 + (y1 - y0) * (math.log(x / x0) / math.log(x1 / x0))
    return knots[-1][1]
