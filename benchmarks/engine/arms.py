"""Training loops that take turns: full, with the freezer, and with the frozen part cut off by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from benchmarks.engine.workloads import BATCHES, Batch, Data, Workload, loss_of
from freezer import FreezeConfig, Freezer
from freezer.policies.base import Policy
from freezer.units import discover

TOTAL_STEPS = 480
"""Planned length of the run that the freezer is told of: a snapshot every 4 steps, a freezing stage every 30."""


def adamw(parameters: Any) -> Optimizer:
    """As in the service's jobs: one fused pass over each parameter."""
    return AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)


class Reduced:
    """Bytes that a wrapper gave to all-reduce."""

    bytes = 0


def wrapped(model: nn.Module, *, reduced: Reduced | None = None, **options: Any) -> nn.Module:
    """Under DDP where several ranks are up. ``reduced`` counts, through a communication hook."""
    if not dist.is_initialized():
        return model
    wrapper = DistributedDataParallel(model, gradient_as_bucket_view=True, **options)
    if reduced is not None:

        def count(state: Any, bucket: Any) -> Any:
            reduced.bytes += bucket.buffer().numel() * bucket.buffer().element_size()
            return allreduce_hook(state, bucket)

        count.__annotations__ = {}  # DDP compares them as objects
        wrapper.register_comm_hook(None, count)
    return wrapper


class Loop:
    """One arm: the step is the same code for all of them but for the forward pass and what comes after the update."""

    def __init__(self, name: str, model: nn.Module, optimizer: Optimizer) -> None:
        self.name = name
        self.model = model
        self.optimizer = optimizer
        self.count = 0
        self.losses: list[Tensor] = []

    def logits(self, batch: Batch) -> Tensor:
        out: Tensor = self.model(**batch.kwargs)
        return out

    def before_zeroing(self) -> None:
        """What comes between the update and the zeroing of gradients."""

    def after(self) -> None:
        """What follows both."""

    def step(self, batch: Batch) -> None:
        torch.manual_seed(self.count)  # dropout draws the same numbers in every arm
        loss = loss_of(self.logits(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.before_zeroing()
        self.optimizer.zero_grad()
        self.after()
        self.count += 1
        self.losses.append(loss.detach())

    def close(self) -> None:
        """Free what holds threads or files."""


class Full(Loop):
    """Plain training of everything."""

    def __init__(self, model: nn.Module, name: str = "full") -> None:
        super().__init__(name, wrapped(model), adamw(model.parameters()))


class Watched(Loop):
    """Training through a :class:`Freezer`."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        config: FreezeConfig,
        *,
        policy: Policy | None = None,
        directory: Path | None = None,
        samples: int | None = None,
        total_steps: int = TOTAL_STEPS,
    ) -> None:
        optimizer = adamw(model.parameters())
        self.freezer = Freezer(
            model, optimizer, config, total_steps=total_steps, policy=policy, directory=directory, samples=samples
        )
        super().__init__(name, self.freezer.model, optimizer)

    def after(self) -> None:
        self.freezer.step()

    def close(self) -> None:
        self.freezer.close()


class Replaying(Watched):
    """The same, with the forward cache: the samples of each pass are named."""

    def logits(self, batch: Batch) -> Tensor:
        with self.freezer.batch(batch.ids):
            return super().logits(batch)


class Cut(Loop):
    """By hand: the prefix runs without gradients in eval mode, DDP and the optimizer know the suffix alone."""

    def __init__(self, name: str, model: nn.Module, workload: Workload, blocks: int) -> None:
        self.prefix = workload.prefix(model, blocks)
        self.side = workload.side
        suffix = workload.suffix(model, blocks)
        super().__init__(name, wrapped(suffix), adamw(suffix.parameters()))

    def logits(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            x = self.prefix(**batch.kwargs)
        out: Tensor = self.model(x, *self.side(batch.kwargs))
        return out


class CutInMemory(Cut):
    """By hand: the suffix is trained on the prefix's outputs, which lie in memory."""

    def __init__(self, name: str, model: nn.Module, workload: Workload, blocks: int, data: Data) -> None:
        super().__init__(name, model, workload, blocks)
        with torch.no_grad():
            rows = [slice(i * data.size, (i + 1) * data.size) for i in range(BATCHES)]
            parts = [self.prefix(**{k: v[r] for k, v in data.inputs.items()}) for r in rows]
        self.outputs = torch.cat(parts)

    def logits(self, batch: Batch) -> Tensor:
        x = self.outputs.index_select(0, batch.ids.to(self.outputs.device))
        out: Tensor = self.model(x, *self.side(batch.kwargs))
        return out


def names_of_prefix(model: nn.Module, batch: Batch, blocks: int) -> list[str]:
    """Units (grain ``layer``) of the stem and the first ``blocks`` blocks, in execution order."""
    units = discover(model, (), batch.kwargs, "layer")
    order = list(dict.fromkeys(unit.block for unit in units))
    return [unit.name for unit in units if unit.block in order[: blocks + 1]]


def frozen_config(names: list[str], **changes: Any) -> FreezeConfig:
    """Freeze ``names`` from the start."""
    return FreezeConfig(**{"policy": "static", "options": {"units": names}, "cache": "off", **changes})
