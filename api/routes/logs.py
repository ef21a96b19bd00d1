"""``/v1/jobs/{id}/logs``: what the ranks printed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from api.deps import JobId, JobsDep, render
from api.errors import invalid, not_found
from api.files import NoSuchFile, read_log
from api.schemas import LogView

router = APIRouter(prefix="/v1/jobs/{job_id}/logs", tags=["logs"])


@router.get(
    "",
    response_model=LogView,
    responses={200: {"content": {"text/plain": {}}, "description": "JSON; with Accept: text/plain the text alone."}},
)
async def logs(
    job_id: JobId,
    jobs: JobsDep,
    rank: Annotated[int, Query(ge=0)] = 0,
    tail: Annotated[int | None, Query(ge=1, le=100_000, description="Last lines; 100 unless told.")] = None,
    after: Annotated[int | None, Query(ge=0, description="Byte to go on from: next_after of the last answer.")] = None,
    attempt: Annotated[int | None, Query(ge=1, description="The newest unless told.")] = None,
    accept: Annotated[str, Header()] = "application/json",
) -> Response:
    """A piece of one rank's log, 256 KiB at most."""
    if tail is not None and after is not None:
        raise invalid("/query/tail", "give tail or after, not both")
    processes = (await jobs.store.get(job_id)).spec.resources.processes_per_worker
    read = partial(read_log, jobs.files(job_id), processes, rank=rank, attempt=attempt, tail=tail, after=after)
    try:
        piece = await anyio.to_thread.run_sync(read)
    except NoSuchFile as error:
        raise not_found(str(error), "LOG_NOT_FOUND") from error
    if "text/plain" in accept.lower():
        headers = {"X-Next-After": str(piece.next_after), "X-Attempt": str(piece.attempt or 0)}
        return Response(piece.content, media_type="text/plain; charset=utf-8", headers=headers)
    return render(
        LogView(
            job_id=job_id,
            attempt=piece.attempt,
            attempts=list(piece.attempts),
            rank=rank,
            ranks=list(piece.ranks),
            offset=piece.offset,
            next_after=piece.next_after,
            size_bytes=piece.size,
            content=piece.content,
        )
    )
