"""Full training with its schedule shortened to the same compute: the rival that knows the right length. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

Point = tuple[float, float]
"""(FLOPs over full training's, accuracy); FLOPs are positive."""


def levels(lengths: Mapping[str, Mapping[int, Point]], shares: Mapping[int, float | None]) -> dict[int, float]:
    """Accuracy of the calendar by seed, for what an arm spent with that seed.

    The length is chosen with hindsight: that of the arm's FLOPs, or any shorter one that was run and is better on the
    mean of the arm's seeds, for full training may be too long.

    Args:
        lengths: points of full training and of each of its shortened forms, by seed. A length is known by its name:
            its share of the FLOPs may differ a little from seed to seed.
        shares: FLOPs of the arm over full training's, by seed. Seeds outside of their curve are left out: nothing is
            extrapolated.
    """
    curves = curves_of(lengths)
    found = {
        seed: level
        for seed, x in shares.items()
        if x is not None and (level := interpolate(curves.get(seed, ()), x)) is not None
    }
    spent = {seed: x for seed, x in shares.items() if seed in found and x is not None}
    for points in lengths.values():
        if not spent or not all(seed in points and points[seed][0] <= x for seed, x in spent.items()):
            continue
        at = {seed: points[seed][1] for seed in found}
        if fmean(at.values()) > fmean(found.values()):
            found = at
    return found


def curves_of(lengths: Mapping[str, Mapping[int, Point]]) -> dict[int, list[Point]]:
    """The points of each seed, by compute."""
    curves: dict[int, list[Point]] = {}
    for points in lengths.values():
        for seed, point in points.items():
            curves.setdefault(seed, []).append(point)
    return {seed: sorted(points) for seed, points in curves.items()}


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
