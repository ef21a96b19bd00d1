"""Passes that do not count: what a model keeps beside its weights, and what it draws from, are as before afterwards."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_INTERNAL = frozenset(vars(nn.Module()))  # hooks, tables of parameters and modules, the training flag


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Plain attributes of the modules are as before, whatever happens inside: counters of passes, states that one pass
    hands to the next, losses noted for the training loop, generators. Of collections also what they hold; not of
    objects of the user's own."""
    own = [(module, {k: v for k, v in vars(module).items() if k not in _INTERNAL}) for module in model.modules()]
    contents = [put_back for _, values in own for value in values.values() for put_back in _contents(value)]
    try:
        yield
    finally:
        for module, values in own:
            now = vars(module)
            for name in [name for name in now if name not in values and name not in _INTERNAL]:
                del now[name]
            taken = (*module._parameters, *module._buffers, *module._modules)  # made in the pass, in the place of None
            now.update({name: value for name, value in values.items() if name not in taken})
        for put_back in contents:
            put_back()


def _contents(value: Any) -> Iterator[Callable[[], object]]:
    """What puts an attribute's own state back."""
    if isinstance(value, list | deque | set | dict):
        held = list(value.items() if isinstance(value, dict) else value)
        yield lambda: _refill(value, held)
    elif isinstance(value, Tensor) and not value.requires_grad and value.layout == torch.strided:
        copied = value.clone()
        version = value._version
        yield lambda: None if value._version == version else _overwrite(value, copied)
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, random.Random):
        drawn = value.getstate()
        yield lambda: value.setstate(drawn)
    elif type(value).__module__.startswith("numpy.random") and hasattr(value, "bit_generator"):
        numbers = value.bit_generator.state  # a copy
        yield lambda: setattr(value.bit_generator, "state", numbers)


def _refill(value: Any, held: list[Any]) -> None:
    now = list(value.items() if isinstance(value, dict) else value)
    flat, before = (
        [part for item in items for part in item] if isinstance(value, dict) else items for items in (now, held)
    )
    if len(flat) == len(before) and all(a is b for a, b in zip(flat, before, strict=True)):
        return
    value.clear()
    (value.extend if isinstance(value, list | deque) else value.update)(held)


@torch.no_grad()
def _overwrite(value: Tensor, copied: Tensor) -> None:
    value.copy_(copied)


@contextmanager
def kept_randomness(model: nn.Module) -> Iterator[None]:
    """The generators of torch (on the CPU and the model's devices), Python and NumPy go on as if nothing was drawn."""
    python, numbers = random.getstate(), numpy_state()
    try:
        with torch.random.fork_rng(devices=cuda_devices(model)):
            yield
    finally:
        random.setstate(python)
        if numbers:
            sys.modules["numpy"].random.set_state(numbers)


def cuda_devices(model: nn.Module) -> list[int]:
    """Indices of the devices that hold the model; none on the CPU."""
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


def numpy_state() -> dict[str, Any]:
    """State of NumPy's global generator; nothing where nobody has imported NumPy."""
    numpy: Any = sys.modules.get("numpy")
    return {} if numpy is None else dict(numpy.random.get_state(legacy=False))


@contextmanager
def apart_from_caches() -> Iterator[None]:
    """Weights that autocast or ``parametrize.cached()`` keep within the user's block come from no pass inside: one
    without gradients would leave copies that cut the real pass off from its weights."""
    before, parametrize._cache = parametrize._cache, {}
    try:
        yield
    finally:
        parametrize._cache = before
        torch.clear_autocast_cache()
