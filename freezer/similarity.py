"""Similarity of representations: minibatch linear CKA with the unbiased HSIC estimator.

Source: Nguyen, Raghu & Kornblith, "Do Wide and Deep Networks Learn the Same Things?" (ICLR 2021), eq. 3 (HSIC_1,
after Song et al. 2012) and eq. 2 (averages of the minibatch estimates before the ratio is taken).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Linear Gram matrix ``(n, n)`` in float64 of representations ``(n, ...)``; trailing axes are flattened."""
    flat = features.detach().flatten(1)
    return (flat @ flat.T).to(torch.float64)


def hsic1(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the paper's names
    """Unbiased HSIC of two Gram matrices ``(n, n)``, a float64 scalar that may be negative.

    Raises:
        ValueError: shapes differ, or fewer than four samples (the estimator divides by ``n - 3``).
    """
    if k.shape != l.shape or k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"need two square Gram matrices of one size, got {tuple(k.shape)} and {tuple(l.shape)}")
    n = k.shape[0]
    if n < 4:
        raise ValueError(f"the unbiased estimator needs at least 4 samples in a minibatch, got {n}")
    k, l = _hollow(k), _hollow(l)  # noqa: E741
    trace = (k * l.T).sum()
    means = k.sum() * l.sum() / ((n - 1) * (n - 2))
    cross = (k.sum(0) @ l.sum(1)) * 2 / (n - 2)
    return (trace + means - cross) / (n * (n - 3))


def minibatch_cka(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """CKA of two layers from their Gram matrices over the same minibatches.

    Near 0 for unrelated and 1 for equal representations, whatever their rotation and isotropic scale. ``nan`` where a
    representation does not vary over the samples.

    Raises:
        ValueError: no minibatch, or different numbers of them.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"need the same minibatches on both sides, got {len(first)} and {len(second)}")
    cross = torch.stack([hsic1(*pair) for pair in zip(first, second, strict=True)]).mean()
    left = torch.stack([hsic1(k, k) for k in first]).mean()
    right = torch.stack([hsic1(k, k) for k in second]).mean()
    if left <= 0 or right <= 0:
        return float("nan")
    return float(cross / (left * right).sqrt())


def _hollow(matrix: Tensor) -> Tensor:
    """A float64 copy with a zero diagonal."""
    copy = matrix.to(torch.float64, copy=True)
    copy.fill_diagonal_(0.0)
    return copy


def similarity_preserving_loss(first: Tensor, second: Tensor) -> float:
    """How differently two representations ``(b, ...)`` of one minibatch arrange its samples; 0 where alike.

    Gram matrices over the samples with rows of length 1; the mean of their squared differences. In [0, 4 / b].
    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation" (ICCV 2019), eqs. 2 to 4.

    Raises:
        ValueError: different numbers of samples.
    """
    if first.shape[:1] != second.shape[:1]:
        raise ValueError(f"need the same samples on both sides, got {tuple(first.shape)} and {tuple(second.shape)}")
    left, right = (torch.nn.functional.normalize(gram(part.to(torch.float32)), dim=1) for part in (first, second))
    return float((left - right).square().mean())
