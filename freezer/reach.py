"""Which parameters a training pass uses: those whose module runs in it, and those that its output's graph leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from freezer.trace import tensors_in


@contextmanager
def exercised(model: nn.Module) -> Iterator[set[int]]:
    """Note the ``id`` of each parameter that the passes inside use.

    Neither sign is enough: attention reads weights of layers that it does not call, and a reentrant checkpoint or a
    loss that is kept on the model is not in the output's graph.
    """
    with _noted(model, lambda: True) as seen:
        yield seen


@contextmanager
def differentiated(model: nn.Module) -> Iterator[set[int]]:
    """The same for passes with gradients alone: not of what runs under ``no_grad``, as target networks do."""
    with _noted(model, torch.is_grad_enabled) as seen:
        yield seen


@contextmanager
def _noted(model: nn.Module, counts: Callable[[], bool]) -> Iterator[set[int]]:
    seen: set[int] = set()

    def enter(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if counts():
            seen.update(id(p) for p in module.parameters(recurse=False))

    def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        seen.update(reached(output))

    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    handles = [owner.register_forward_pre_hook(enter) for owner in owners]
    handles.append(model.register_forward_hook(leave))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def reached(output: Any) -> set[int]:
    """The ``id`` of each leaf that asks for a gradient and that the tensors in ``output`` were computed from."""
    waiting = [t.grad_fn for t in tensors_in(output) if t.grad_fn is not None]
    seen, leaves = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return leaves
