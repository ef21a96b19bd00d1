"""Which samples each rank sees at which step: a pure function, so that a resumed run needs no sampler state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """The training set cut into steps.

    Each sample belongs to one rank for the whole run, so that what a rank keeps of it serves again. In every epoch a
    rank goes through its share in an order that depends on (seed, epoch, rank) alone, ``accumulation * batch_size``
    samples a step; what is left over at the end of an epoch is not used in that epoch.
    """

    samples: int
    batch_size: int
    """Samples per rank and micro-batch."""
    accumulation: int
    world: int
    seed: int
    _orders: dict[int, tuple[int, torch.Tensor]] = field(default_factory=dict, init=False)
    """By rank: the last epoch asked for, and its order."""
    _shares: dict[int, torch.Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.samples < self.step_samples:
            raise ValueError(
                f"one step needs {self.step_samples} samples ({self.world} processes x {self.accumulation} "
                f"micro-batches x {self.batch_size}), but the training set has {self.samples}: lower "
                "training.batch_size, gradient_accumulation or resources.processes_per_worker, or use more data"
            )

    @property
    def step_samples(self) -> int:
        """Samples that all ranks together consume in one optimizer step."""
        return self.world * self.accumulation * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.samples // self.world // (self.accumulation * self.batch_size)

    def total_steps(self, epochs: int, max_steps: int | None) -> int:
        total = epochs * self.steps_per_epoch
        return total if max_steps is None else min(total, max_steps)

    def micro_batches(self, step: int, rank: int) -> list[torch.Tensor]:
        """Sample indices of one rank after ``step`` completed steps: ``accumulation`` times int64 ``(batch_size,)``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        take = self.accumulation * self.batch_size
        order = self._order(epoch, rank)[within * take : (within + 1) * take]
        return list(order.view(self.accumulation, self.batch_size).unbind())

    def share(self, rank: int) -> torch.Tensor:
        """The samples that belong to a rank, int64. Alone, a rank has all, in order; else they are dealt at random,
        since data in a regular order would give each rank classes of its own."""
        if rank not in self._shares:
            dealt = torch.arange(self.samples)
            if self.world > 1:
                dealt = torch.randperm(self.samples, generator=_generator(f"{self.seed}:share"))
            self._shares[rank] = dealt[rank :: self.world]
        return self._shares[rank]

    def _order(self, epoch: int, rank: int) -> torch.Tensor:
        known, order = self._orders.get(rank, (-1, None))
        if order is None or known != epoch:
            share = self.share(rank)
            name = f"{self.seed}:{epoch}" if self.world == 1 else f"{self.seed}:{epoch}:{rank}"
            order = share[torch.randperm(len(share), generator=_generator(name))]
            self._orders[rank] = (epoch, order)
        return order


def _generator(name: str) -> torch.Generator:
    """Hashed, so that (seed 0, epoch 1) and (seed 1, epoch 0) have nothing to do with each other."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def share_of(samples: int, rank: int, world: int) -> torch.Tensor:
    """A rank's part of a split in evaluation, int64: disjoint, together every sample exactly once."""
    return torch.arange(min(rank, samples), samples, world)
