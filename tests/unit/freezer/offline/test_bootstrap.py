"""Resampling against the plain measure and against counting by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freezer.offline.bootstrap import cluster_weights, interval, weighted_roc_auc
from freezer.offline.metrics import roc_auc


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=20))
def test_a_weight_is_a_repetition(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores, weights = (torch.tensor([row[i] for row in rows]) for i in range(3))
    found = weighted_roc_auc(labels.bool(), scores.double(), weights[None].float())[0]
    repeated = [(label, float(score)) for label, score, weight in rows for _ in range(weight)]
    expected = roc_auc([label for label, _ in repeated], [score for _, score in repeated])
    assert float(found) == pytest.approx(expected, nan_ok=True)


def test_clusters_are_drawn_whole() -> None:
    clusters = torch.tensor([7, 7, 3, 3, 3, 9])
    weights = cluster_weights(clusters, 50, seed=0)
    assert torch.equal(weights[:, 0], weights[:, 1])
    assert torch.equal(weights[:, 2], weights[:, 4])
    assert torch.equal(weights[:, 0] + weights[:, 2] + weights[:, 5], torch.full((50,), 3.0))
    assert len(weights[:, 5].unique()) > 1


def test_interval_by_hand() -> None:
    assert interval(torch.arange(101, dtype=torch.float64)) == pytest.approx((2.5, 97.5))
    assert interval(torch.tensor([float("nan"), 1.0], dtype=torch.float64)) == pytest.approx((1.0, 1.0))
