"""The measures against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.offline import metrics

LABELS = [False, False, True, True]


def test_auc_by_hand() -> None:
    assert metrics.roc_auc(LABELS, [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert metrics.roc_auc(LABELS, [0.5, 0.5, 0.5, 0.5]) == 0.5
    assert metrics.roc_auc(LABELS, [0.9, 0.8, 0.2, 0.1]) == 0.0
    assert math.isnan(metrics.roc_auc([True], [0.3]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int]]) -> None:
    pairs = [(a, b) for la, a in rows if la for lb, b in rows if not lb]
    found = metrics.roc_auc([label for label, _ in rows], [float(score) for _, score in rows])
    if not pairs:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))


def test_average_precision_by_hand() -> None:
    assert metrics.average_precision(LABELS, [0.1, 0.4, 0.35, 0.8]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.average_precision(LABELS, [0.0] * 4) == 0.5
    assert math.isnan(metrics.average_precision([False], [0.1]))


def test_calibration_error_by_hand() -> None:
    assert metrics.calibration_error([True, False], [1.0, 0.0]) == 0.0
    assert metrics.calibration_error([False, False, True, True], [0.95] * 4) == pytest.approx(0.45)
    assert metrics.calibration_error([True, False, False, False], [0.75, 0.25, 0.25, 0.25]) == pytest.approx(0.25)


def test_stratified_auc_takes_the_clock_out() -> None:
    """Scores that only know the stratum are perfect over all and worth nothing inside."""
    labels, strata = [False] * 3 + [True] + [False] + [True] * 3, ["early"] * 4 + ["late"] * 4
    scores = [0.1] * 4 + [0.9] * 4
    assert metrics.roc_auc(labels, scores) == 0.75
    assert metrics.stratified_auc(labels, scores, strata) == 0.5
    knowing = [0.1, 0.1, 0.1, 0.2, 0.1, 0.2, 0.2, 0.2]
    assert metrics.stratified_auc(labels, knowing, strata) == 1.0
    assert math.isnan(metrics.stratified_auc([True, False], [0.1, 0.2], ["a", "b"]))


def test_brier_precision_and_recall() -> None:
    assert metrics.brier([True, False], [0.5, 0.0]) == 0.125
    assert metrics.precision_recall(LABELS, [0.9, 0.1, 0.9, 0.1], 0.5) == (0.5, 0.5)
    precision, recall = metrics.precision_recall(LABELS, [0.1] * 4, 0.5)
    assert math.isnan(precision)
    assert recall == 0.0
