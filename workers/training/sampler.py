"""Which samples each rank sees at which step: a pure function, so that a resumed run needs no sampler state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch


@dataclass(slots=True, kw_only=True)
class StepPlan:
    """The training set cut into steps.

    A step consumes ``world * accumulation * batch_size`` samples of the epoch's permutation, which depends on
    (seed, epoch) alone; what is left over at the end of an epoch is not used in that epoch.
    """

    samples: int
    batch_size: int
    """Samples per rank and micro-batch."""
    accumulation: int
    world: int
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), init=False)

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
        return self.samples // self.step_samples

    def total_steps(self, epochs: int, max_steps: int | None) -> int:
        total = epochs * self.steps_per_epoch
        return total if max_steps is None else min(total, max_steps)

    def micro_batches(self, step: int, rank: int) -> list[torch.Tensor]:
        """Sample indices of one rank after ``step`` completed steps: ``accumulation`` times int64 ``(batch_size,)``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = self._permutation(epoch)
        share = self.accumulation * self.batch_size
        start = within * self.step_samples + rank * share
        return list(order[start : start + share].view(self.accumulation, self.batch_size).unbind())

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            # Hashed, so that (seed 0, epoch 1) and (seed 1, epoch 0) have nothing to do with each other.
            digest = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            self._order = torch.randperm(self.samples, generator=generator)
            self._epoch = epoch
        return self._order


def share_of(samples: int, rank: int, world: int) -> torch.Tensor:
    """A rank's part of a split in evaluation, int64: disjoint, together every sample exactly once."""
    return torch.arange(min(rank, samples), samples, world)
