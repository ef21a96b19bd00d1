"""A spec from a JSON or TOML file or stdin, with ``--set a.b=c`` on top. Pure but for the reading."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class SpecFileError(ValueError):
    """The file or an override cannot be read; the message says where."""


def load_spec(source: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read ``source`` (a path, or ``-`` for stdin) and apply overrides in order.

    Raises:
        SpecFileError: not readable, no object, or a bad override.
    """
    if source == "-":
        text, toml = sys.stdin.read(), False
    else:
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecFileError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error
        toml = path.suffix == ".toml"
    spec = parse_spec(text, toml=toml, source=source)
    for override in overrides:
        set_value(spec, override)
    return spec


def parse_spec(text: str, *, toml: bool, source: str) -> dict[str, Any]:
    """JSON; TOML where the name says so."""
    try:
        document = tomllib.loads(text) if toml else json.loads(text, object_pairs_hook=_each_once)
    except ValueError as error:
        raise SpecFileError(f"{source} is no {'TOML' if toml else 'JSON'}: {error}") from error
    if not isinstance(document, dict):
        raise SpecFileError(f"{source} must hold one object, the job spec")
    return document


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two with one name JSON would silently keep the last, which TOML refuses."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in one object")
        found[name] = value
    return found


def set_value(spec: dict[str, Any], override: str) -> None:
    """``training.epochs=3``: the value is JSON where it parses as JSON, else a string."""
    name, equals, text = override.partition("=")
    path = name.split(".")
    if not equals or not all(path):
        raise SpecFileError(f"--set wants a.b=value, not {override!r}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    target = spec
    for depth, part in enumerate(path[:-1]):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise SpecFileError(f"--set {name}: {'.'.join(path[: depth + 1])} is no object")
    target[path[-1]] = value
