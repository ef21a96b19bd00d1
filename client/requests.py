"""The service's operations as plain requests, and the rules of repeating one. Pure; both clients share it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Params = list[tuple[str, str]]
PASSING = (429, 502, 503, 504)
"""Statuses that say: not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, without base URL and key. ``patience`` is added to the read timeout, in seconds."""

    method: str
    path: str
    params: Params = field(default_factory=list)
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    patience: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of repeating. All requests of this service are safe to repeat: creations carry a key."""

    attempts: int = 5
    """Tries, the first included."""
    backoff_seconds: float = 0.25
    """First pause where the service named none; doubles each time."""
    max_pause_seconds: float = 10.0
    """Longest single pause; a longer Retry-After is cut to it."""

    def pause(self, attempt: int, headers: Mapping[str, str] | None, status: int | None) -> float | None:
        """Seconds to wait after try number ``attempt`` (from 1) failed, or ``None`` to give up.

        Args:
            status: of the answer; ``None`` when there was none.
        """
        if attempt >= self.attempts or (status is not None and status not in PASSING):
            return None
        headers = headers or {}
        if headers.get("x-should-retry") == "false":
            return None
        try:
            named = float(headers.get("retry-after", ""))
        except ValueError:
            named = self.backoff_seconds * 2 ** (attempt - 1)
        return min(max(0.0, named), self.max_pause_seconds)


def job_path(job_id: str, *rest: str) -> str:
    """Path below one job; every part is quoted, slashes included."""
    return "/".join(["/v1/jobs", *(quote(part, safe="") for part in (job_id, *rest))])


def submit(spec: Mapping[str, Any], idempotency_key: str | None, validate_only: bool) -> Request:
    return Request(
        method="POST",
        path="/v1/jobs",
        params=[("validate_only", "true")] if validate_only else [],
        json=dict(spec),
        headers={"Idempotency-Key": idempotency_key or secrets.token_hex(16)},
    )


def get(job_id: str, wait: float | None = None, etag: str | None = None) -> Request:
    headers = {}
    if wait is not None:
        headers["Prefer"] = f"wait={max(1, round(wait))}"
    if etag is not None:
        headers["If-None-Match"] = etag
    return Request(method="GET", path=job_path(job_id), headers=headers, patience=wait or 0.0)


def list_jobs(
    limit: int,
    after: str | None,
    order: str,
    status: Sequence[str],
    name: str | None,
    metadata: Mapping[str, str] | None,
) -> Request:
    params: Params = [("limit", str(limit)), ("order", order), *(("status", value) for value in status)]
    params += [("after", after)] if after else []
    params += [("name", name)] if name else []
    params += [(f"metadata[{key}]", value) for key, value in (metadata or {}).items()]
    return Request(method="GET", path="/v1/jobs", params=params)


def cancel(job_id: str) -> Request:
    return Request(method="POST", path=job_path(job_id, "cancel"))


def delete(job_id: str) -> Request:
    return Request(method="DELETE", path=job_path(job_id))


def command(job_id: str, action: str, units: Sequence[str] | None, idempotency_key: str | None) -> Request:
    return Request(
        method="POST",
        path=job_path(job_id, "freeze", "commands"),
        json={"action": action, "units": None if units is None else list(units)},
        headers={"Idempotency-Key": idempotency_key or secrets.token_hex(16)},
    )


def below(job_id: str, *rest: str, **params: str | float | None) -> Request:
    """GET of something below a job; parameters that are ``None`` are left out."""
    return Request(
        method="GET",
        path=job_path(job_id, *rest),
        params=[(name, str(value)) for name, value in params.items() if value is not None],
    )


def events_stream(job_id: str, last_event_id: str | None) -> Request:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    return Request(method="GET", path=job_path(job_id, "events"), headers=headers, patience=30.0)


def artifact(job_id: str, path: str) -> Request:
    inner = "/".join(quote(part, safe="") for part in path.split("/"))
    return Request(method="GET", path=f"{job_path(job_id, 'artifacts')}/{inner}", patience=60.0)
