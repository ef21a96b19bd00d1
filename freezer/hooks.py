"""The freezer's hooks on modules: they belong to one model, not to copies of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
