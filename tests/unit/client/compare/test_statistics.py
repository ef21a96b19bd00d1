"""Intervals cover as often as they say, and say nothing beyond the data."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.compare.statistics import bootstrap, difference, ratio, stat
from freezer.student import student

VALUES = st.floats(-100.0, 100.0, allow_nan=False)


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


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_the_interval_of_few_covers_as_often_as_it_says(n: int) -> None:
    source = random.Random(n)
    hits = 0
    for _ in range(2000):
        low, high = student([source.gauss(0.3, 1.0) for _ in range(n)])
        assert low is not None
        assert high is not None
        hits += low <= 0.3 <= high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)  # four standard errors


def test_the_interval_of_three_known_values() -> None:
    # mean 2, standard deviation 1: 4.302653 / sqrt(3), to the last figure that a table in points shows
    assert student([1.0, 2.0, 3.0]) == (pytest.approx(2.0 - 2.484138, abs=3e-6), pytest.approx(4.484138, abs=3e-6))
    found = stat({0: 1.0, 1: 2.0, 2: 3.0})
    assert found is not None
    assert (found.low, found.high) == student([1.0, 2.0, 3.0])
    assert found.to_json()["bootstrap"] == list(bootstrap([1.0, 2.0, 3.0])) == [1.0, 3.0]


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
    assert (one.n, one.mean, one.low, one.high, one.resampled) == (1, 0.5, None, None, (None, None))
    assert stat({3: None}) is None


def test_pairs_are_of_one_seed() -> None:
    assert difference({0: 3.0, 1: 5.0, 2: None}, {0: 1.0, 2: 1.0}) == {0: 2.0, 2: None}
    assert ratio({0: 3.0, 1: 5.0}, {0: 6.0, 1: 0.0}) == {0: 0.5, 1: None}
