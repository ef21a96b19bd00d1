"""Which samples: fixed by the labels and a seed, nothing else. All results are int64 indices."""

from __future__ import annotations

import torch
from torch import Tensor


def permuted(count: int, seed: int) -> Tensor:
    """A fixed permutation of ``range(count)``."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _by_class(labels: Tensor, seed: int) -> list[Tensor]:
    """Indices of each class that occurs, shuffled within the class."""
    order = permuted(len(labels), seed)
    shuffled = labels[order]
    return [order[shuffled == label] for label in torch.unique(labels)]


def balanced(labels: Tensor, size: int, seed: int) -> Tensor:
    """``size`` samples, as even over the classes as they allow; ascending.

    Classes are filled round by round, so a class that runs out leaves its share to the others.
    """
    if not 0 < size <= len(labels):
        raise ValueError(f"size must lie between 1 and {len(labels)}")
    groups = _by_class(labels, seed)
    rounds = torch.cat([torch.arange(len(group)) for group in groups])
    # A stable sort by round keeps the classes' order within a round.
    chosen = torch.cat(groups)[torch.argsort(rounds, stable=True)[:size]]
    return torch.sort(chosen).values


def stratified(labels: Tensor, ratio: float, seed: int) -> tuple[Tensor, Tensor]:
    """(kept, held out), both ascending: of every class with two samples or more, ``ratio`` is held out.

    At least one sample of such a class stays on either side.
    """
    kept, held = [], []
    for group in _by_class(labels, seed):
        count = min(max(1, round(len(group) * ratio)), len(group) - 1)
        held.append(group[:count])
        kept.append(group[count:])
    return torch.sort(torch.cat(kept)).values, torch.sort(torch.cat(held)).values
