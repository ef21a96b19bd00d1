"""Passes that do not count: what a model keeps beside its weights, and what it draws from, are as before afterwards."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

INTERNAL = frozenset(vars(nn.Module()))
"""Names in every module: hooks, tables of parameters and modules, the training flag."""


Undo = Callable[[], bool]
"""Puts one thing back; whether it had changed."""


@contextmanager
def kept_attributes(model: nn.Module, only: Collection[tuple[nn.Module, str]] | None = None) -> Iterator[None]:
    """Plain attributes of the modules are as before, whatever happens inside: counters of passes, states that one pass
    hands to the next, losses noted for the training loop, generators. Of collections also what they hold; not of
    objects of the user's own.

    Args:
        only: modules and names of the attributes that count; all of the model's by default.
    """
    undo = hold_attributes(model, only)
    try:
        yield
    finally:
        undo()


def hold_attributes(model: nn.Module, only: Collection[tuple[nn.Module, str]] | None = None) -> Callable[[], None]:
    """What brings the attributes back to how they are now; see :func:`kept_attributes`."""
    own: list[tuple[nn.Module, dict[str, Any], set[str] | None]]
    if only is None:
        own = [(m, {k: v for k, v in vars(m).items() if k not in INTERNAL}, None) for m in model.modules()]
    else:
        by_module: dict[nn.Module, set[str]] = {}
        for module, name in only:
            by_module.setdefault(module, set()).add(name)
        own = [(m, {k: v for k, v in vars(m).items() if k in names}, names) for m, names in by_module.items()]
    contents = [undo for _, values, _ in own for value in values.values() for undo in _contents(value)]

    def put_back() -> None:
        for module, values, names in own:
            now = vars(module)
            for name in [n for n in now if n not in values and (n not in INTERNAL if names is None else n in names)]:
                del now[name]
            taken = (*module._parameters, *module._buffers, *module._modules)  # made in the pass, in the place of None
            now.update({name: value for name, value in values.items() if name not in taken})
        for undo in contents:
            undo()

    return put_back


def hold_inputs(*nests: Any) -> Undo:
    """What brings a model's arguments back to how they are now, tensors and collections: a pass may write into them."""
    undos = [undo for nest in nests for value in _nested(nest) for undo in _contents(value, graph=True)]
    return lambda: sum(undo() for undo in undos) > 0  # each of them


def _nested(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | deque):
        for item in value:
            yield from _nested(item)


@contextmanager
def kept_inputs(*nests: Any) -> Iterator[None]:
    """Arguments are as before, whatever the passes inside write into them."""
    undo = hold_inputs(*nests)
    try:
        yield
    finally:
        undo()


def _contents(value: Any, *, graph: bool = False, depth: int = 3) -> Iterator[Undo]:
    """What puts a value's own state back; ``graph``: also that of tensors that need gradients."""
    if isinstance(value, list | deque | set | dict):
        held = list(value.items() if isinstance(value, dict) else value)
        yield lambda: _refill(value, held)
        for item in value.values() if isinstance(value, dict) else value:
            if depth and isinstance(item, list | deque | set | dict):
                yield from _contents(item, graph=graph, depth=depth - 1)
    elif isinstance(value, Tensor):
        if (graph or not value.requires_grad) and value.layout == torch.strided and not value.is_inference():
            copied = value.detach().clone()
            version = value._version
            yield lambda: value._version != version and _overwrite(value, copied)
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: _reset(value.set_state, state)
    elif isinstance(value, random.Random):
        drawn = value.getstate()
        yield lambda: _reset(value.setstate, drawn)
    elif type(value).__module__.startswith("numpy.random") and hasattr(value, "bit_generator"):
        numbers = value.bit_generator.state  # a copy
        yield lambda: _reset(lambda state: setattr(value.bit_generator, "state", state), numbers)


def _refill(value: Any, held: list[Any]) -> bool:
    now = list(value.items() if isinstance(value, dict) else value)
    flat, before = (
        [part for item in items for part in item] if isinstance(value, dict) else items for items in (now, held)
    )
    if len(flat) == len(before) and all(a is b for a, b in zip(flat, before, strict=True)):
        return False
    value.clear()
    (value.extend if isinstance(value, list | deque) else value.update)(held)
    return True


def _reset(put: Callable[[Any], object], state: Any) -> bool:
    put(state)
    return True


@torch.no_grad()
def _overwrite(value: Tensor, copied: Tensor) -> bool:
    value.copy_(copied)
    return True


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


def hold_randomness(devices: Collection[torch.device]) -> Callable[[], None]:
    """What brings the generators of torch (on the CPU and these devices), Python and NumPy back to where they are."""
    drawn, python, numbers = torch.get_rng_state(), random.getstate(), numpy_state()
    others = {device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}

    def put_back() -> None:
        torch.set_rng_state(drawn)
        random.setstate(python)
        if numbers:
            sys.modules["numpy"].random.set_state(numbers)
        for device, state in others.items():
            torch.cuda.set_rng_state(state, device)

    return put_back


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
