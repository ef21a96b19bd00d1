"""Bytes that each unit holds in gradients and optimizer state, measured on the real objects."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.saved import Saved
from freezer.trace import parameters_of
from freezer.units import Unit
from freezer.worth import Held


def measure_held(
    model: nn.Module, optimizer: Optimizer, units: Sequence[Unit], saved: Saved | None = None, *, stepped: bool = False
) -> Held:
    """Look, without touching anything; cheap.

    Args:
        stepped: whether the optimizer made a step. Then an optimizer without any state needs none (plain SGD);
            before, its state is unknown, as is that of a unit that was frozen before the first step.
    """
    params = parameters_of(model)
    stateless = stepped and not any(optimizer.state.values())
    optimized: dict[str, int | None] = {}
    for unit in units:
        states = [optimizer.state.get(params[name], {}) for name in unit.params]
        known = stateless or all(states)
        optimized[unit.name] = sum(_bytes(v) for s in states for v in s.values()) if known else None
    gradient = {u.name: sum(_bytes(params[name]) for name in u.params) for u in units}
    return Held(gradient, optimized, saved)


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
