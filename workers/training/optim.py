"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from workers.jobs.spec import LrScheduleSpec, OptimizerSpec


def make_optimizer(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """AdamW or SGD over *every* parameter, in a stable order, frozen ones included.

    The fused kernels touch each parameter once, the plain ones once for each term of the update.

    Weight decay is left out for parameters with fewer than two dimensions: biases, and the scales of norms.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if spec.name == "sgd":
        return SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=fused)
    return AdamW(groups, lr=spec.lr, fused=fused)


def lr_factor(spec: LrScheduleSpec, step: int, total_steps: int) -> float:
    """Factor on the base rate for the update after ``step`` completed steps, in (0, 1].

    A linear warm-up over ``warmup_ratio`` of the run, then half a cosine, a line, or nothing. The last update still has
    a rate above zero.
    """
    warmup = round(spec.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    if spec.name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - progress if spec.name == "linear" else 1.0


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the rate of every group; the schedule is a function of the step, so there is no scheduler state to keep."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(optimizer: Optimizer, max_norm: float) -> None:
    """Clip the global gradient norm of the parameters that have a gradient (frozen ones have none)."""
    with_gradient = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(with_gradient, max_norm)
