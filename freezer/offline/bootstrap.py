"""How sure a measure is: resampling of clusters, many at once. Windows of one unit of one run are no independent
evidence, so units are drawn, with all their windows."""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_weights(clusters: Tensor, resamples: int, seed: int) -> Tensor:
    """How often each example is in each resample: clusters drawn with replacement, as many as there are.

    Args:
        clusters: int64 ``(N,)``, any numbers.

    Returns:
        float32 ``(resamples, N)``.
    """
    _, index = torch.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    times = torch.zeros(resamples, count).scatter_add_(1, drawn, torch.ones(resamples, count))
    return times[:, index]


def weighted_roc_auc(labels: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """ROC-AUC under each row of weights; ties count half; NaN where one class has no weight.

    Args:
        labels: bool ``(N,)``.
        scores: ``(N,)``, finite.
        weights: float32 ``(R, N)``, not negative.

    Returns:
        float64 ``(R,)``.
    """
    _, level = torch.unique(scores, return_inverse=True)  # sorted
    levels = int(level.max()) + 1
    shape = (len(weights), levels)
    wide = weights.double()
    positive = torch.zeros(shape, dtype=torch.float64).index_add_(1, level[labels], wide[:, labels])
    negative = torch.zeros(shape, dtype=torch.float64).index_add_(1, level[~labels], wide[:, ~labels])
    below = negative.cumsum(1) - negative
    won = (positive * (below + negative / 2)).sum(1)
    return won / (positive.sum(1) * negative.sum(1))


def interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values, NaN left out."""
    good = values[~values.isnan()]
    if not len(good):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = torch.quantile(good, torch.tensor([tail, 1 - tail], dtype=good.dtype)).tolist()
    return low, high
