"""Intervals and the curve: they cover, they are exact where they must be, they say nothing beyond the data."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.compare.statistics import bootstrap, difference, interpolate, ratio, stat

VALUES = st.floats(-100.0, 100.0, allow_nan=False)
POINTS = st.dictionaries(st.integers(0, 1000).map(lambda n: n / 1000), VALUES, min_size=2, max_size=8)


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=2, max_size=8))
def test_the_interval_holds_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    low, high = bootstrap(values)
    assert (low is None, high is None) == (False, False)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert low - 1e-9 <= fmean(values) <= high + 1e-9 or len(values) < 3
    assert bootstrap(values) == (low, high)


@settings(max_examples=20)
@given(st.lists(VALUES, min_size=3, max_size=6), st.floats(-10, 10))
def test_the_interval_moves_with_the_values(values: list[float], shift: float) -> None:
    low, high = bootstrap(values)
    moved = bootstrap([value + shift for value in values])
    assert (low is None, high is None) == (False, False)
    assert moved == (pytest.approx(low + shift, abs=1e-6), pytest.approx(high + shift, abs=1e-6))


def test_it_covers_about_as_often_as_a_percentile_bootstrap_of_twenty_does() -> None:
    source = random.Random(1)
    hits = 0
    for _ in range(120):
        low, high = bootstrap([source.gauss(0.3, 1.0) for _ in range(20)])
        assert (low is None, high is None) == (False, False)
        hits += low <= 0.3 <= high
    assert 0.85 <= hits / 120 <= 1.0  # 0.92 expected at n = 20; four standard errors are 0.1


def test_one_seed_has_no_interval_and_none_has_no_figure() -> None:
    one = stat({3: 0.5, 4: None})
    assert one is not None
    assert (one.n, one.mean, one.low, one.high) == (1, 0.5, None, None)
    assert stat({3: None}) is None


@given(POINTS)
def test_the_curve_is_exact_at_its_points(points: dict[float, float]) -> None:
    for x, y in points.items():
        assert interpolate(list(points.items()), x) == y


@given(POINTS, st.floats(-1.0, 2.0))
def test_the_curve_stays_between_neighbours_and_ends_at_its_ends(points: dict[float, float], x: float) -> None:
    y = interpolate(list(points.items()), x)
    if not min(points) <= x <= max(points):
        assert y is None
        return
    below, above = max(k for k in points if k <= x), min(k for k in points if k >= x)
    assert y is not None
    assert min(points[below], points[above]) - 1e-9 <= y <= max(points[below], points[above]) + 1e-9


def test_points_at_one_place_count_as_their_mean_and_one_place_is_no_curve() -> None:
    assert interpolate([(0.5, 1.0), (0.5, 3.0), (1.0, 4.0)], 0.5) == 2.0
    assert interpolate([(0.5, 1.0), (0.5, 3.0)], 0.5) is None
    assert interpolate([(0.5, 1.0), (1.0, 2.0)], 0.75) == pytest.approx(1.5)


def test_pairs_are_of_one_seed() -> None:
    assert difference({0: 3.0, 1: 5.0, 2: None}, {0: 1.0, 2: 1.0}) == {0: 2.0, 2: None}
    assert ratio({0: 3.0, 1: 5.0}, {0: 6.0, 1: 0.0}) == {0: 0.5, 1: None}
