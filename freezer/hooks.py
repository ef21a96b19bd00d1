"""The freezer's hooks: on modules, which belong to one model and not to copies of it, and on an optimizer's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


class ModuleHook:
    """Calls a function. In a copy of the module, or in a file of it, :func:`nothing` stands in its place: a copy is
    nobody's to freeze, and must not take what the function knows (the optimizer, say) along."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        self._function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return _left, ()


def nothing(*_: Any) -> None:
    """What is left of a hook in a copy."""


def _left() -> Callable[..., None]:
    return nothing


def inside(optimizer: Optimizer) -> list[Optimizer]:
    """Optimizers that this one hands its work to (Lookahead, SAM, ZeroRedundancyOptimizer), the innermost last."""
    found: list[Optimizer] = []
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer) and value is not optimizer:
            found += [value, *inside(value)]
    return found


def before_step(optimizer: Optimizer, call: Callable[[], None]) -> Any:
    """Call this before each step; a handle to remove, or ``None`` for a wrapper that never became an optimizer itself
    (it did not call ``Optimizer.__init__``), and so runs no hooks."""
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return None
    return optimizer.register_step_pre_hook(lambda *_: call())
