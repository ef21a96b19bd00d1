"""The curve of shortened training: exact where it was run, silent where it was not, and the length known beforehand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.compare.calendar import Point, curves_of, interpolate, levels

VALUES = st.floats(-100.0, 100.0, allow_nan=False)
POINTS = st.dictionaries(st.integers(1, 1000).map(lambda n: n / 1000), VALUES, min_size=2, max_size=8)


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


def test_between_two_lengths_it_is_straight_in_the_logarithm_of_compute() -> None:
    assert interpolate([(0.25, 1.0), (1.0, 2.0)], 0.5) == pytest.approx(1.5)
    assert interpolate([(0.5, 1.0), (1.0, 2.0)], 0.75) == pytest.approx(1.585, abs=1e-3)


def lengths(*of_seed: list[Point]) -> dict[str, dict[int, Point]]:
    """Curves of seeds, from 0 on, by length; all have the same lengths."""
    return {str(number): dict(enumerate(points)) for number, points in enumerate(zip(*of_seed, strict=True))}


RISING = lengths([(0.5, 0.80), (0.75, 0.88), (1.0, 0.90)], [(0.5, 0.84), (0.75, 0.88), (1.0, 0.92)])


def test_each_seed_is_held_against_its_own_curve_at_its_own_compute() -> None:
    assert levels(RISING, {0: 0.75, 1: 1.0}) == {0: 0.88, 1: 0.92}


def test_a_shorter_length_that_is_better_on_average_is_taken_for_all_seeds() -> None:
    falling = lengths([(0.5, 0.80), (0.75, 0.93), (1.0, 0.90)], [(0.5, 0.84), (0.75, 0.91), (1.0, 0.92)])
    assert levels(falling, {0: 1.0, 1: 1.0}) == {0: 0.93, 1: 0.91}
    assert levels(falling, {0: 0.75, 1: 0.75}) == {0: 0.93, 1: 0.91}
    assert levels(falling, {0: 1.0, 1: 0.6})[0] == 0.90, "one seed did not spend as much"


def test_a_seed_outside_of_its_curve_is_left_out() -> None:
    assert levels(RISING, {0: 0.4, 1: 0.5, 2: 0.75}) == {1: 0.84}
    assert levels(RISING, {0: None}) == {}
    assert levels({}, {0: 0.5}) == {}


def test_a_length_is_one_though_its_compute_differs_a_little_from_seed_to_seed() -> None:
    falling = lengths([(0.5, 0.80), (0.75, 0.93), (1.0, 0.90)], [(0.5, 0.84), (0.7501, 0.91), (1.0, 0.92)])
    assert levels(falling, {0: 1.0, 1: 1.0}) == {0: 0.93, 1: 0.91}
    assert levels(falling, {0: 0.75, 1: 0.75})[0] == 0.93, "of its own compute"


def test_a_length_that_a_seed_lacks_is_no_choice_for_all() -> None:
    lacking = {"0.75": {0: (0.75, 0.99)}, "0.5": {0: (0.5, 0.80), 1: (0.5, 0.84)}, "1": {0: (1.0, 0.9), 1: (1.0, 0.92)}}
    assert levels(lacking, {0: 1.0, 1: 1.0}) == {0: 0.9, 1: 0.92}
    assert curves_of(lacking) == {0: [(0.5, 0.80), (0.75, 0.99), (1.0, 0.9)], 1: [(0.5, 0.84), (1.0, 0.92)]}
