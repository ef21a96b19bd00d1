"""What JSON forbids and Python's parser lets through: numbers that are not finite, halves of surrogate pairs.

A store cannot keep them; a record that holds one could be written, but never read again.
"""

from __future__ import annotations

import json
import math

from fastapi import Request

from api.errors import invalid


def check(body: bytes) -> str | None:
    """Why a body is no JSON in the strict sense; ``None`` when it is, or when it is no JSON at all. Pure."""
    try:
        document = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except _NotFinite as error:
        return f"{error} is no finite number"
    except (ValueError, RecursionError):
        return None  # the parser proper says it better
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a string holds half of a surrogate pair"
    return None


async def strict_json(request: Request) -> None:
    """Dependency of every route that takes a body. Raises 422."""
    fault = check(await request.body())
    if fault is not None:
        raise invalid("", fault, "JSON_INVALID")


class _NotFinite(Exception):
    pass


def _refuse(text: str) -> float:
    raise _NotFinite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite(text)
    return value
