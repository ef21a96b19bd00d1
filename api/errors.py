"""Domain errors become HTTP here, once: RFC 9457 ``application/problem+json``. Nothing else makes an error body."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from workers.jobs import errors as domain

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS, MAX_TEXT = 100, 1000
"""Of one answer: faults told one by one (``metadata.errors`` counts all), and characters of a text in it."""
_WORDS = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "model_attributes_type": "must be an object",
    "json_invalid": "the body is no JSON",
}
"""What pydantic says to programmers, said to users; by its type of error."""


class Fault(BaseModel):
    """One fault of a request. ``pointer``: JSON pointer into the body, or ``/query/<name>``, ``/header/<name>``."""

    pointer: str
    detail: str
    code: str


class ProblemBody(BaseModel):
    """RFC 9457, with a stable ``code`` for programs."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="UPPER_SNAKE, stable.")
    request_id: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    errors: list[Fault] = Field(default_factory=list)


class ApiError(Exception):
    """An answer other than success, raised where the API itself finds the fault."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.metadata = metadata or {}
        self.faults = list(faults)


def not_found(what: str, code: str = "NOT_FOUND") -> ApiError:
    return ApiError(404, code, what)


def unsupported(detail: str) -> ApiError:
    """A body in a form that is not read."""
    return ApiError(415, "UNSUPPORTED_MEDIA_TYPE", detail)


def invalid(pointer: str, detail: str, code: str = "INVALID") -> ApiError:
    """422 with one fault."""
    return ApiError(422, "VALIDATION_FAILED", detail, faults=[Fault(pointer=pointer, detail=detail, code=code)])


def translate(error: domain.JobError, retry_after: int) -> ApiError:
    """Every error of the kernel as an answer. Pure."""
    match error:
        case domain.JobNotFound():
            return not_found(str(error), "JOB_NOT_FOUND")
        case domain.RecordUnreadable():
            advice = "It can neither run nor be cancelled: delete it, and submit the job anew. No other is affected."
            return ApiError(500, "RECORD_UNREADABLE", f"{error}. {advice}", metadata={"job_id": error.job_id})
        case domain.IllegalTransition():
            return ApiError(
                409,
                "ILLEGAL_TRANSITION",
                str(error),
                headers={"x-should-retry": "false"},
                metadata={"status": error.status, "action": error.action},
            )
        case domain.StaleFence():
            return ApiError(409, "STALE_FENCE", str(error), headers={"x-should-retry": "false"})
        case domain.IdempotencyConflict():
            return ApiError(422, "IDEMPOTENCY_KEY_REUSED", str(error), headers={"x-should-retry": "false"})
        case domain.SpecInvalid():
            faults = [Fault(pointer=p.pointer, detail=p.detail, code=p.code) for p in error.problems]
            return ApiError(422, "SPEC_INVALID", str(error), faults=faults)
        case domain.StoreUnavailable():
            return ApiError(
                503,
                "STORE_UNAVAILABLE",
                "The job store does not answer. Try again; with the same Idempotency-Key a job is made only once.",
                headers={"Retry-After": str(retry_after)},
            )
        case _:
            return ApiError(500, "INTERNAL", "An unexpected error; the log has it under this request_id.")


def faults_of(error: RequestValidationError) -> list[Fault]:
    """FastAPI's list of faults with JSON pointers. Pure."""
    found = []
    for item in error.errors():
        where, *path = item["loc"]
        parts = path if where == "body" else [where, *path]
        # The position of a JSON syntax error is no path into the document.
        parts = [] if item["type"] == "json_invalid" else parts
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
        detail = _WORDS.get(str(item["type"])) or str(item["msg"]).removeprefix("Value error, ")
        found.append(Fault(pointer=pointer, detail=detail, code=_upper_snake(str(item["type"]))))
    return found


def respond(scope: Scope, error: ApiError) -> Response:
    """The answer for an error."""
    try:
        title = HTTPStatus(error.status).phrase
    except ValueError:
        title = "Error"
    body = ProblemBody(
        title=title,
        status=error.status,
        detail=_clip(error.detail, 4 * MAX_TEXT),
        instance=scope.get("path", ""),
        code=error.code,
        request_id=scope.get("state", {}).get("request_id", ""),
        metadata=error.metadata | ({"errors": len(error.faults)} if len(error.faults) > MAX_FAULTS else {}),
        errors=[_clipped(fault) for fault in error.faults[:MAX_FAULTS]],
    )
    content = to_json(body, inf_nan_mode="null")
    return Response(content, status_code=error.status, headers=error.headers, media_type=MEDIA_TYPE)


def _clipped(fault: Fault) -> Fault:
    return Fault(pointer=_clip(fault.pointer, MAX_TEXT), detail=_clip(fault.detail, MAX_TEXT), code=fault.code)


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def allowed(scope: Scope) -> list[str]:
    """Every method that the path of a request knows: one route may have GET, another one POST."""
    routes = scope["app"].routes
    tried = ("DELETE", "GET", "PATCH", "POST", "PUT")
    found = [m for m in tried if any(route.matches({**scope, "method": m})[0] is Match.FULL for route in routes)]
    return sorted([*found, "HEAD"]) if "GET" in found else found


def install(app: FastAPI, retry_after: int) -> None:
    """Register the handlers. What none of them knows is caught by the outermost middleware."""

    async def on_api(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return respond(request.scope, error)

    async def on_domain(request: Request, error: Exception) -> Response:
        assert isinstance(error, domain.JobError)
        return respond(request.scope, translate(error, retry_after))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = faults_of(error)
        detail = "; ".join(f"{fault.pointer or '(body)'}: {fault.detail}" for fault in faults[:5])
        return respond(request.scope, ApiError(422, "VALIDATION_FAILED", detail, faults=faults))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, detail = _upper_snake(HTTPStatus(error.status_code).phrase), str(error.detail)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed(request.scope))
            detail = f"{request.method} is not possible here, only {headers['Allow']}."
        elif error.status_code == 404:
            slash = " Leave the slash at its end out." if request.url.path.endswith("/") else ""
            detail = f"There is no such path; /openapi.json lists all.{slash}"
        return respond(request.scope, ApiError(error.status_code, code, detail, headers=headers))

    handlers: dict[type[Exception], Callable[..., Any]] = {
        ApiError: on_api,
        domain.JobError: on_domain,
        RequestValidationError: on_validation,
        HTTPException: on_http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _upper_snake(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")


def schemas() -> dict[str, Any]:
    """The error body's JSON Schemas, for the OpenAPI document."""
    _, document = models_json_schema([(ProblemBody, "serialization")], ref_template="#/components/schemas/{model}")
    return dict(document["$defs"])
