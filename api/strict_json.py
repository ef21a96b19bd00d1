"""What JSON forbids and Python's parser lets through: numbers that are not finite, halves of surrogate pairs. And what
other parsers give up on: documents nested without end.

A store cannot keep them; a record that holds one could be written, but never read again.
"""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import Request

from api.errors import invalid, unsupported

MAX_DEPTH = 64
"""Objects and arrays inside one another, the body itself included. The store's parser gives up near 200."""

MAX_VALUES = 10_000
"""Fields of all objects and items of all arrays. Each may be a fault, to be told with its pointer: a body of 1 MiB made
an answer of 60, and held up every other request for seconds."""


def check(body: bytes) -> str | None:
    """Why a body is no JSON in the strict sense; ``None`` when it is, or when it is no JSON at all. Pure."""
    try:
        document = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except _NotFinite as error:
        return f"{error} is no finite number"
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return None  # the parser proper says it better
    if (fault := _too_much(document)) is not None:
        return fault
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a string holds half of a surrogate pair"
    return None


def is_json(content_type: str) -> bool:
    """Whether a ``Content-Type`` is one of JSON's: ``application/json``, ``application/*+json``."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


async def strict_json(request: Request) -> None:
    """Dependency of every route that takes a body. Raises 415, 422."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    if body and not is_json(kind):
        detail = f"The body is sent as {kind or 'nothing'}: send JSON, with 'Content-Type: application/json'."
        raise unsupported(detail)
    fault = check(body)
    if fault is not None:
        raise invalid("", fault, "JSON_INVALID")


_TOO_DEEP = f"objects and arrays stand more than {MAX_DEPTH} deep inside one another"


def _too_much(document: Any) -> str | None:
    """Whether it is too deep, or too much. Level by level, so that no depth is a danger to this look itself."""
    level, values = [document], 0
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        values += len(level)
        if values > MAX_VALUES:
            return f"it holds more than {MAX_VALUES} fields and items"
        if not level:
            return None
    return _TOO_DEEP if any(isinstance(item, dict | list) for item in level) else None


class _NotFinite(Exception):
    pass


def _refuse(text: str) -> float:
    raise _NotFinite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite(text)
    return value
