"""Changes of a spec: nested objects, dotted names, or lines as of ``--set``. Pure."""

from __future__ import annotations

import copy
from typing import Any

from client.cli.specfile import SpecFileError, set_value
from client.compare.errors import ComparisonError, pointer_of
from client.flows import Json


def changed(spec: Json, overrides: object, pointer: str) -> Json:
    """A changed copy of ``spec``.

    Args:
        overrides: an object, whose objects are merged into those of the spec and whose other values replace (a name
            may be dotted: ``{"training.max_steps": 100}``); or a list of lines, ``["training.max_steps=100"]``.
        pointer: of the overrides in the comparison file, for errors.

    Raises:
        ComparisonError: neither of the two, or a name leads through a value that is no object.
    """
    result = copy.deepcopy(spec)
    if isinstance(overrides, list):
        for position, line in enumerate(overrides):
            try:
                set_value(result, line if isinstance(line, str) else repr(line))
            except SpecFileError as error:
                raise ComparisonError(pointer_of_item(pointer, position), str(error)) from None
        return result
    if not isinstance(overrides, dict):
        raise ComparisonError(pointer, "must be an object of overrides, or a list of a.b=VALUE lines")
    for name, value in overrides.items():
        _put(result, name, value, pointer + pointer_of(name))
    return result


def pointer_of_item(pointer: str, position: int) -> str:
    return pointer + pointer_of(position)


def _put(target: Json, name: str, value: object, pointer: str) -> None:
    *path, last = name.split(".")
    if not all((*path, last)):
        raise ComparisonError(pointer, f"{name!r} is no name: parts are joined by single dots")
    for part in path:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ComparisonError(pointer, f"{part!r} is no object in the spec")
    target[last] = _merged(target.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _merged(old.get(name), value) for name, value in new.items()}
    return copy.deepcopy(new)
