"""What both HTTP clients share: where the service is, with which key, how patiently."""

from __future__ import annotations

from typing import Any

import httpx

from client.config import Connection
from client.errors import Unreachable
from client.patience import Patience
from client.requests import Request, RetryPolicy

USER_AGENT = "smartfrz-client"


class Base:
    """Connection, bounds of repeating, and the arguments that httpx wants."""

    def __init__(self, connection: Connection, policy: RetryPolicy, timeout: float, patience_seconds: float) -> None:
        self.connection, self.policy, self.timeout = connection, policy, timeout
        self.patience_seconds = patience_seconds

    def patience(self) -> Patience:
        """Of one who waits or follows, from now on."""
        return Patience(self.patience_seconds)

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(f"{self.connection.url}: {what}; is the service running there?")

    def _options(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.connection.key}", "User-Agent": USER_AGENT}
        return {
            "base_url": self.connection.url,
            "headers": headers,
            "timeout": self.timeout,
            "trust_env": not _on_this_machine(self.connection.url),  # no proxy in between
        }

    def _arguments(self, request: Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "url": request.path,
            "params": request.params,
            "json": request.json,
            "headers": request.headers,
            "timeout": httpx.Timeout(self.timeout, read=self.timeout + request.patience),
        }


def _on_this_machine(url: str) -> bool:
    return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")
