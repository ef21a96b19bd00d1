"""Downsampling keeps every spike; attempts make one history."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.series import KEPT, downsample, merge_attempts, to_series

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=400)


@given(VALUES, st.integers(4, 100))
def test_downsampling_keeps_the_ends_the_extremes_and_the_order(values: list[float | None], max_points: int) -> None:
    keep = downsample(values, max_points)
    assert len(keep) <= max_points
    assert keep == sorted(set(keep))
    if len(values) <= max_points:
        assert keep == list(range(len(values)))
    else:
        assert (keep[0], keep[-1]) == (0, len(values) - 1)
    finite = [v for v in values if v is not None]
    if finite:
        kept = [values[i] for i in keep]
        assert min(finite) in kept
        assert max(finite) in kept


def test_a_single_spike_survives_a_strong_reduction() -> None:
    values: list[float | None] = [0.0] * 100_000
    values[54_321] = 9.0
    keep = downsample(values, 10)
    assert 54_321 in keep
    assert len(keep) <= 10


def test_fewer_than_four_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        downsample([1.0] * 10, 3)


def test_a_later_attempt_supersedes_all_from_its_first_step_on() -> None:
    first = [{"step": s, "from": 1} for s in (1, 2, 3, 4, 5)]
    second = [{"step": s, "from": 2} for s in (3, 6)]
    merged = merge_attempts([(1, first), (3, second)])
    assert [(row["step"], row["from"]) for row in merged] == [(1, 1), (2, 1), (3, 2), (6, 2)]


@given(VALUES.filter(bool), st.integers(1, 20))
def test_a_column_thinned_as_it_grows_keeps_the_ends_and_the_extremes(values: list[float | None], width: int) -> None:
    rows = [{"step": 3 * n, "loss": math.inf if value is None else value} for n, value in enumerate(values)]
    (series,) = to_series(rows, max_points=1000, expected=width * KEPT // 2)
    assert (series.name, series.points) == ("loss", len(values))
    assert len(series.steps) == len(series.values) <= 2 * math.ceil(len(values) / width) + 2
    assert series.steps == sorted(set(series.steps))
    assert [series.values[i] for i in range(len(series.steps))] == [values[step // 3] for step in series.steps]
    assert (series.steps[0], series.steps[-1]) == (0, 3 * (len(values) - 1))
    if finite := [v for v in values if v is not None]:
        assert {min(finite), max(finite)} <= set(series.values)
    if width <= 2:
        assert series.values == values


def test_of_two_rows_at_one_step_the_later_holds() -> None:
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 2, "b": 5, "at": 9.0}, {"step": 2, "a": 3.0}]
    a, b = to_series(rows, max_points=4)
    assert (a.steps, a.values, a.points) == ([1, 2], [1.0, 3.0], 2)
    assert (b.steps, b.values, b.points) == ([2], [5.0], 1)
