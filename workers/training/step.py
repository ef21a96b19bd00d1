"""One optimizer step on one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional
from torch.optim import Optimizer

from freezer.proxy import ModelProxy
from workers.training.batch import Batch, forward
from workers.training.optim import clip


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def train_step(
    model: ModelProxy,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    *,
    device: torch.device,
    bf16: bool = False,
    grad_clip: float | None = None,
    around: Callable[[int], AbstractContextManager[object]] = lambda index: nullcontext(),  # noqa: ARG005
) -> torch.Tensor:
    """Forward and backward over the micro-batches, one update. Gradients are reduced with the last micro-batch only.

    The forward pass of micro-batch ``index`` runs inside ``around(index)``. The gradients stay until the next step, for
    whoever looks at them in between.

    Returns:
        Mean cross-entropy over this rank's samples, float32 (), detached, still on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        inputs, labels = batch.to(device)
        with nullcontext() if last else model.no_sync():
            with around(index), autocast(device, bf16):
                loss = functional.cross_entropy(forward(model, inputs).float(), labels) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    if grad_clip is not None:
        clip(optimizer, grad_clip)
    optimizer.step()
    return total
