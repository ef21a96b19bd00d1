"""Accuracy and loss over a whole split, shared among the ranks: every sample exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from workers.training.batch import Batch, forward
from workers.training.process_group import Ranks
from workers.training.sampler import share_of
from workers.training.step import autocast


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int: ...

    def batch(self, indices: torch.Tensor) -> Batch: ...


@dataclass(frozen=True, slots=True)
class Score:
    """Means over ``samples`` samples; ``accuracy`` in [0, 1], ``loss`` the mean cross-entropy."""

    accuracy: float
    loss: float
    samples: int


def evaluate(
    model: nn.Module,
    split: Split,
    ranks: Ranks,
    *,
    batch_size: int,
    bf16: bool = False,
    between: Callable[[int, int], None] = lambda done, of: None,  # noqa: ARG005
) -> Score:
    """Score the bare model (no DDP wrapper) on a split. Leaves the model in eval mode.

    Every rank takes each ``world``-th sample; integer counts and a float64 loss sum are added up over the ranks.
    ``between(done, of)`` is called equally often on all ranks.
    """
    ranks.same_buffers(model)
    model.eval()
    mine = share_of(len(split), ranks.rank, ranks.world)
    correct = torch.zeros((), dtype=torch.int64, device=ranks.device)
    loss = torch.zeros((), dtype=torch.float64, device=ranks.device)
    rounds = math.ceil(math.ceil(len(split) / ranks.world) / batch_size)
    for done in range(rounds):
        indices = mine[done * batch_size : (done + 1) * batch_size]
        if len(indices):
            with torch.inference_mode(), autocast(ranks.device, bf16):
                inputs, labels = split.batch(indices).to(ranks.device)
                logits = forward(model, inputs).float()
                correct += (logits.argmax(dim=-1) == labels).sum()
                loss += functional.cross_entropy(logits, labels, reduction="sum").double()
        between(done + 1, rounds)
    # float64 holds counts exactly up to 2**53.
    totals = torch.tensor([float(correct), float(loss), float(len(mine))], dtype=torch.float64)
    hits, loss_sum, samples = ranks.sum(totals).tolist()
    return Score(hits / samples, loss_sum / samples, int(samples))
