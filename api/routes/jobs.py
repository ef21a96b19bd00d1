"""``/v1/jobs``: submit, list, get, cancel, delete."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from api.deps import JobId, JobsDep, Limit, render
from api.errors import invalid
from api.schemas import JobView, Page, ValidationView
from api.service import Jobs, Placed
from api.strict_json import strict_json
from api.views import job_etag, job_view, matches_etag, page
from workers.jobs.record import Status
from workers.jobs.spec import JobSpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_METADATA = re.compile(r"metadata\[(.+)\]")
_METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "metadata[key]=value: only jobs with this metadata. Repeat it for several keys.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}


def _view(placed: Placed) -> JobView:
    return job_view(placed.record, placed.now, placed.position)


def _etag(placed: Placed) -> str:
    return job_etag(placed.record, placed.position)


def _headers(jobs: Jobs, placed: Placed) -> dict[str, str]:
    headers = {"ETag": _etag(placed), "Cache-Control": "no-cache"}
    if not placed.record.terminal:
        headers["Retry-After"] = str(jobs.settings.retry_after_seconds)
    return headers


def prefer_wait(header: str | None) -> int | None:
    """Seconds of ``Prefer: wait=N`` (RFC 7240); ``None`` where it asks for no wait."""
    match = _WAIT.search(header or "")
    return int(match[1]) if match else None


@router.post(
    "",
    status_code=201,
    response_model=JobView,
    dependencies=[Depends(strict_json)],
    responses={200: {"model": ValidationView, "description": "?validate_only=true: nothing was written."}},
)
async def create(
    spec: JobSpec,
    jobs: JobsDep,
    validate_only: bool = False,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[\x21-\x7e]{1,255}$",
            description="The same key and spec within 24 h give the job made first; another spec is a 422.",
        ),
    ] = None,
) -> Response:
    """Submit a job. The answer is given when the record is durable; training starts when a worker is free."""
    if validate_only:
        await jobs.check(spec)
        return render(ValidationView(spec=spec))
    placed, is_new = await jobs.create(spec, idempotency_key=idempotency_key)
    headers = _headers(jobs, placed) | {"Location": f"/v1/jobs/{placed.record.id}"}
    if not is_new:
        headers["Idempotent-Replayed"] = "true"
    return render(_view(placed), status=201, headers=headers)


@router.get("", response_model=Page[JobView], openapi_extra={"parameters": [_METADATA_PARAMETER]})
async def list_jobs(
    request: Request,
    jobs: JobsDep,
    limit: Limit,
    after: Annotated[
        str | None, Query(pattern=r"^job_[0-9a-f]{1,32}$", description="last_id of the page before")
    ] = None,
    order: Literal["asc", "desc"] = "desc",
    status: Annotated[list[Status] | None, Query(description="Repeat it for several.")] = None,
    name: str | None = None,
) -> Response:
    """Jobs by time of creation, newest first. ``metadata[key]=value`` filters by metadata."""
    metadata = {m[1]: value for key, value in request.query_params.items() if (m := _METADATA.fullmatch(key))}
    found, more = await jobs.search(
        limit=limit, after=after, newest_first=order == "desc", status=status or (), name=name, metadata=metadata
    )
    return render(page(map(_view, found), lambda job: job.id, has_more=more))


@router.get("/{job_id}", response_model=JobView, responses={304: {"description": "As If-None-Match has it."}})
async def get(
    job_id: JobId,
    jobs: JobsDep,
    if_none_match: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header(description="wait=N: answer when the job changes, after N s at most.")] = None,
) -> Response:
    """One job. With ``Prefer: wait`` it returns on the first change against ``If-None-Match``, or against now."""
    placed = await jobs.get(job_id)
    extra: dict[str, str] = {}
    if (seconds := prefer_wait(prefer)) is not None:
        known = if_none_match or _etag(placed)
        placed = await jobs.wait(job_id, seconds, lambda p: matches_etag(known, _etag(p)))
        extra = {"Preference-Applied": f"wait={seconds}"}
    headers = _headers(jobs, placed) | extra
    if matches_etag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return render(_view(placed), headers=headers)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "It was asked for before."},
        409: {"description": "ILLEGAL_TRANSITION: the job succeeded or failed."},
    },
)
async def cancel(job_id: JobId, jobs: JobsDep, request: Request) -> Response:
    """Ask for the job's end. A running job checkpoints at a step's boundary and leaves."""
    if (await request.body()).strip() not in (b"", b"{}"):
        raise invalid("", "cancel takes no body", "UNEXPECTED_BODY")
    placed, changed = await jobs.cancel(job_id)
    return render(_view(placed), status=202 if changed else 200, headers=_headers(jobs, placed))


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    responses={409: {"description": "ILLEGAL_TRANSITION: it, or a job that starts from it, has not ended."}},
)
async def delete(job_id: JobId, jobs: JobsDep) -> Response:
    """Forget a job that has ended, with its logs, checkpoints and artifacts. One that has not ended is a 409, and so is
    one from whose weights a job starts that has not. One whose record cannot be read goes in any status."""
    await jobs.delete(job_id)
    return Response(status_code=204)
