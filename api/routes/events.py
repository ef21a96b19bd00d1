"""``/v1/jobs/{id}/events``: the durable event stream, as a list or as Server-Sent Events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from api.deps import JobId, JobsDep, Limit, render
from api.errors import invalid
from api.schemas import EventView, Page
from api.service import Jobs
from api.sse import has_ended, split_last_event_id, stream
from api.views import event_view, page

router = APIRouter(prefix="/v1/jobs/{job_id}/events", tags=["events"])


@router.get(
    "",
    response_model=Page[EventView],
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "A list; with Accept: text/event-stream a stream."},
        204: {"description": "The job has ended and the client has seen it: do not reconnect."},
    },
)
async def events(
    job_id: JobId,
    jobs: JobsDep,
    limit: Limit,
    after: Annotated[str | None, Query(description="Id of the last event seen.")] = None,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Events, oldest first. A stream replays what follows ``Last-Event-ID``, goes on live and closes with ``end``."""
    if "text/event-stream" in accept.lower():
        return await _stream(jobs, job_id, last_event_id or after)
    await jobs.store.get(job_id)
    cursor, _ = _cursor(after, "/query/after")
    found = await jobs.store.events(job_id, after=cursor, limit=limit + 1)
    views = (event_view(job_id, event) for event in found[:limit])
    return render(page(views, lambda event: event.id, has_more=len(found) > limit))


async def _stream(jobs: Jobs, job_id: str, last_event_id: str | None) -> Response:
    cursor, seen_end = _cursor(last_event_id, "/header/last-event-id")
    if await has_ended(jobs.store, job_id, cursor) and seen_end:
        return Response(status_code=204)
    return EventSourceResponse(
        stream(jobs.store, jobs.hub, job_id, cursor),
        ping=jobs.settings.sse_ping_seconds,
        send_timeout=jobs.settings.sse_send_timeout_seconds,
        sep="\n",
    )


def _cursor(text: str | None, pointer: str) -> tuple[str, bool]:
    try:
        return split_last_event_id(text)
    except ValueError as error:
        raise invalid(pointer, str(error), "INVALID_EVENT_ID") from error
