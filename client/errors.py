"""Every error that the client raises on purpose, and how an HTTP answer becomes one.

::

    ClientError
    ├── NotConfigured          no URL or no key is known; the message says where they are looked for
    ├── Unreachable            the service does not answer
    ├── WaitTimeout            the job did not end in the time given
    └── ApiError               the service said no; carries the problem document (RFC 9457)
        ├── AuthError          401, 403
        ├── NotFound           404
        ├── Conflict           409
        ├── Invalid            400, 413, 422; ``problems`` points into what was sent
        └── Unavailable        503, after the retries
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ClientError(Exception):
    """Base of all client errors."""


class NotConfigured(ClientError):
    """URL or key of the service is not known."""


class Unreachable(ClientError):
    """The service did not answer, after the retries."""


class WaitTimeout(ClientError):
    """The job did not end in the time given."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: ``pointer`` is a JSON pointer into the body that was sent (empty: the whole)."""

    pointer: str
    detail: str
    code: str = ""


class ApiError(ClientError):
    """An answer that is not a success. ``code`` is stable, ``detail`` is for people."""

    def __init__(
        self, status: int, *, code: str, title: str, detail: str, problems: tuple[Problem, ...], request_id: str | None
    ) -> None:
        repeated = bool(problems) and all(problem.detail in detail for problem in problems)
        lines = [f"{code} ({status}): {title if repeated or not detail else detail}"]
        lines += [f"  {p.pointer or '/'}: {p.detail}" for p in problems]
        super().__init__("\n".join(lines))
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.problems, self.request_id = problems, request_id


class AuthError(ApiError):
    """401 or 403: no key, an unknown key, or one without the scope."""


class NotFound(ApiError):
    """404: no such thing, or another tenant's."""


class Conflict(ApiError):
    """409: the state of the job does not allow it."""


class Invalid(ApiError):
    """400, 413 or 422: what was sent cannot work."""


class Unavailable(ApiError):
    """503: the store behind the service does not answer."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: AuthError,
    403: AuthError,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    422: Invalid,
    503: Unavailable,
}


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The typed error of a problem document; an answer in another shape (a proxy's) keeps its first words."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"detail": body[:200].decode("utf-8", "replace").strip()}
    return _BY_STATUS.get(status, ApiError)(
        status,
        code=str(document.get("code") or f"HTTP_{status}"),
        title=str(document.get("title") or ""),
        detail=str(document.get("detail") or ""),
        problems=tuple(_problem(entry) for entry in document.get("errors") or () if isinstance(entry, dict)),
        request_id=document.get("request_id") or headers.get("x-request-id"),
    )


def _problem(entry: dict[str, Any]) -> Problem:
    return Problem(str(entry.get("pointer") or ""), str(entry.get("detail") or ""), str(entry.get("code") or ""))
