"""HTTP client of a smartfrz service, and the ``smartfrz`` command line. Loads no torch; names resolve on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.api import AsyncClient, Client
    from client.errors import ApiError, ClientError
    from client.sse import Event

__all__ = ["ApiError", "AsyncClient", "Client", "ClientError", "Event"]

_HOME = {
    "ApiError": "client.errors",
    "AsyncClient": "client.api",
    "Client": "client.api",
    "ClientError": "client.errors",
    "Event": "client.sse",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
