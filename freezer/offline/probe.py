"""What each unit of a model computes on fixed inputs, kept as Gram matrices: all that CKA needs, and small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freezer.similarity import gram
from freezer.trace import clean_name
from freezer.units import Unit

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one forward pass."""


@torch.no_grad()
def unit_grams(model: nn.Module, units: Sequence[Unit], inputs: Sequence[Inputs]) -> dict[str, list[Tensor]]:
    """Gram matrices of every used unit's output, one ``(n, n)`` float64 CPU matrix per minibatch of ``n`` samples.

    Runs in eval mode and leaves training flags as they were. A unit's output is that of its last executed module.
    """
    owner = {path: unit.name for unit in units if unit.used for path in unit.modules}
    latest: dict[str, Tensor] = {}

    def keep(unit: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            tensor = _first_tensor(output)
            if tensor is not None:
                latest[unit] = tensor

        return hook

    flags = {module: module.training for module in model.modules()}
    handles = [
        module.register_forward_hook(keep(owner[clean_name(path)]))
        for path, module in model.named_modules()
        if clean_name(path) in owner
    ]
    result: dict[str, list[Tensor]] = {}
    try:
        model.eval()
        for args, kwargs in inputs:
            latest.clear()
            model(*args, **kwargs)
            for unit, tensor in latest.items():
                result.setdefault(unit, []).append(gram(tensor).cpu())
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return result


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None
