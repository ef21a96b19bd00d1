"""Downsampling keeps every spike; attempts make one history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.series import downsample, merge_attempts

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
    merged = merge_attempts([first, [], second])
    assert [(row["step"], row["from"]) for row in merged] == [(1, 1), (2, 1), (3, 2), (6, 2)]
