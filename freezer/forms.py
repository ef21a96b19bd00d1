"""What modules give and keep in a pass, but for the values: some do more in training than to drop and to normalise.

A backbone may return an auxiliary output in training alone, a router may leave a loss on itself. In eval mode such a
module cannot stand in for itself, while one that calls dropout as a function can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from freezer.trace import clean_name, is_drop, is_norm, owner_of
from freezer.untouched import INTERNAL

Forms = dict[str, set[tuple[Any, frozenset[str]]]]
"""By path: the form of each output, and the names of the plain attributes that got other tensors on the way."""

_DEPTH = 6  # of nests; deeper ones are not looked at


@contextmanager
def noted_forms(model: nn.Module) -> Iterator[Forms]:
    """Note them of the passes inside, for every module that is neither torch's own nor one whose only way in training
    is to drop, to normalise or to iterate towards a norm of weights."""
    found: Forms = {}
    handles = []
    for name, module in model.named_modules():
        path = clean_name(name)
        if is_torchs(module) or is_norm(module) or is_drop(module) or owner_of(path) != path:
            continue
        running: list[dict[str, list[tuple[Tensor, int]]]] = []

        def enter(module: nn.Module, args: Any, running: list[Any] = running) -> None:  # noqa: ARG001
            running.append(_kept(module))

        def leave(module: nn.Module, _: Any, output: Any, running: list[Any] = running, path: str = path) -> None:
            before, now = running.pop(), _kept(module)
            changed = frozenset(n for n in (*before, *now) if not _alike(before.get(n, []), now.get(n, [])))
            found.setdefault(path, set()).add((_form(output), changed))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def differing(one: Forms, other: Forms) -> list[str]:
    """Paths of the modules that ran in both passes and gave or kept something else. Sorted."""
    return sorted(path for path in one.keys() & other.keys() if one[path] != other[path])


def is_torchs(module: nn.Module) -> bool:
    """Whether its class is one of torch's own, which does in training what torch says."""
    return type(module).__module__.startswith("torch.nn.")


def _form(value: Any, depth: int = _DEPTH) -> Any:
    if isinstance(value, Tensor):
        return Tensor
    if depth == 0:
        return type(value)
    if isinstance(value, Mapping):
        return type(value), tuple((key, _form(item, depth - 1)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_form(item, depth - 1) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple((f.name, _form(getattr(value, f.name, None), depth - 1)) for f in fields(value))
    return type(value)


def _kept(module: nn.Module) -> dict[str, list[tuple[Tensor, int]]]:
    """Tensors in plain attributes with their versions; they are held, so that no other takes the place of one."""
    plain = {name: value for name, value in vars(module).items() if name not in INTERNAL}
    return {name: list(_tensors(value, _DEPTH)) for name, value in plain.items()}


def _tensors(value: Any, depth: int) -> Iterator[tuple[Tensor, int]]:
    if isinstance(value, Tensor):
        yield value, 0 if value.is_inference() else value._version
    elif isinstance(value, list | tuple | deque | dict) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth - 1)


def _alike(one: list[tuple[Tensor, int]], other: list[tuple[Tensor, int]]) -> bool:
    return len(one) == len(other) and all(a is b and v == w for (a, v), (b, w) in zip(one, other, strict=True))
