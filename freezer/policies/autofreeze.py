"""``autofreeze``: blocks whose accumulated gradients change least freeze, from the input on.

Source: Liu, Agarwal & Venkataraman, "AutoFreeze: Automatically Freezing Model Blocks to Accelerate Fine-tuning"
(2021), section 4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.hooks import before_step, inside
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.trace import parameters_of
from freezer.units import Unit


def change(before: float, now: float) -> float:
    """``eta = |g_prev - g_now| / g_prev``: relative change of a block's gradient norm.

    Infinite after a norm of 0 and for norms that overflowed: such a block has not settled.
    """
    if before == now == 0.0:
        return 0.0
    eta = abs(before - now) / before if before > 0.0 else math.inf
    return eta if math.isfinite(eta) else math.inf


def boundary(etas: Sequence[float]) -> int:
    """Position of the first active block whose eta reaches the median of all; the blocks before it freeze."""
    if not etas:
        return 0
    median = statistics.median(etas)
    return next(position for position, eta in enumerate(etas) if eta >= median)


class AutoFreezePolicy(Defaults):
    """Sums every parameter's gradient over an interval (one vector a block) and compares L1 norms of two intervals.

    An interval is ``decide_every`` steps, or a run's steps divided by the option ``intervals`` (10 to 20 in the paper).
    Gradients are those that the optimizer is about to use: reduced over ranks, unscaled, and clipped if the user clips;
    of a step that a fused optimizer skips for overflow nothing is added. The sum costs memory: one float32 copy of the
    active parameters on their device, on rank 0.

    Deviations: blocks are those of the run's units, so that the embedding is a block of its own. A block with a unit
    that has no norm of the interval before (just thawed) cannot be judged: nothing from there on freezes.
    """

    name = "autofreeze"

    def __init__(self, config: FreezeConfig) -> None:
        del config  # the schedule reads ``intervals``
        self._sums: dict[str, Tensor] = {}
        self._previous: dict[str, float] = {}
        self._watched: list[tuple[str, nn.Parameter]] = []
        self._units: list[Unit] = []
        self._handle: Any = None

    def watch(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        units: Sequence[Unit],
        example: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        del example
        parameters = parameters_of(model)
        self._units = [unit for unit in units if unit.used]
        self._watched = [(name, parameters[name]) for unit in self._units for name in unit.params]
        self.close()
        for candidate in (optimizer, *inside(optimizer)):  # a wrapper may run no hooks
            self._handle = before_step(candidate, partial(self._add, candidate))
            if self._handle is not None:
                return
        raise ConfigError(
            f"policy 'autofreeze' looks at gradients just before each step, and {type(optimizer).__name__} runs no "
            "hooks before its steps: let it call Optimizer.__init__, or use another policy",
            "/policy",
        )

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @torch.no_grad()
    def _add(self, optimizer: Optimizer) -> None:
        scale, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        for name, parameter in self._watched:
            if parameter.grad is None or not parameter.requires_grad:
                continue
            found = parameter.grad if parameter.grad.layout == torch.strided else parameter.grad.to_dense()
            gradient = found.to(torch.float32)
            if scale is not None:
                gradient = gradient / scale.to(gradient.device)
            if overflow is not None:  # no branch: it would wait for the device
                gradient = torch.where(overflow.to(gradient.device) > 0, torch.zeros_like(gradient), gradient)
            held = self._sums.get(name)
            if held is None:
                self._sums[name] = gradient.clone() if gradient is parameter.grad else gradient
            else:
                self._sums[name] = held.to(gradient.device).add_(gradient)

    def collect(self, step: int) -> Mapping[str, Any]:
        """L1 norms of the interval that ends and of the one before, by unit; the sums begin anew."""
        del step
        names = [name for name, _ in self._watched if name in self._sums]
        norms: dict[str, float] = {}
        if names:
            parts = [torch.linalg.vector_norm(self._sums[name], 1, dtype=torch.float64) for name in names]
            values = dict(zip(names, torch.stack([part.to(parts[0].device) for part in parts]).tolist(), strict=True))
            for unit in self._units:
                own = [values[name] for name in unit.params if name in values]
                if own:
                    norms[unit.name] = sum(own)
        before, self._previous = self._previous, norms
        self._sums = {}
        return {"norms": dict(norms), "before": before}

    def decide(self, context: PolicyContext) -> list[Verdict]:
        norms, before = context.extra.get("norms", {}), context.extra.get("before", {})
        blocks: dict[str, list[str]] = {}
        for unit in context.units:
            if unit.name not in context.frozen:
                blocks.setdefault(unit.block, []).append(unit.name)
        judged: list[tuple[list[str], float]] = []
        for names in blocks.values():
            if any(name not in norms or name not in before for name in names):
                break
            judged.append((names, change(sum(before[n] for n in names), sum(norms[n] for n in names))))
        first = boundary([eta for _, eta in judged])
        return [Verdict(name, True) for names, _ in judged[:first] for name in names]

    def state_dict(self) -> dict[str, Any]:
        """Sums as float32 CPU tensors by parameter, norms of the interval before by unit."""
        sums = {name: value.detach().to("cpu", copy=True) for name, value in self._sums.items()}
        return {"sums": sums, "previous": dict(self._previous)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: value.clone() for name, value in state["sums"].items()}
        self._previous = {name: float(value) for name, value in state["previous"].items()}
