"""One client's event stream: replay from the durable stream, then live, then a final ``end``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent

from api.hub import Hub, Watcher
from api.views import event_view
from workers.jobs.codec import parse_event_id
from workers.jobs.errors import JobNotFound, StoreUnavailable
from workers.jobs.ports import AsyncJobStore
from workers.jobs.record import TERMINAL, Event

END_SUFFIX = "-end"
"""The ``end`` event's id is the last event's id with this: a reconnect past it is answered 204."""

REPLAY_PAGE = 200
CHECK_SECONDS = 15.0
"""After so long without an event the store is asked for what follows, and whether the job has ended."""

_LAST = frozenset(f"job.{status}" for status in TERMINAL)


def split_last_event_id(header: str | None) -> tuple[str, bool]:
    """``Last-Event-ID`` as (cursor, whether the client has seen ``end``).

    Raises:
        ValueError: it is no id of this stream.
    """
    if not header:
        return "0", False
    cursor = header.removesuffix(END_SUFFIX)
    parse_event_id(cursor)
    return cursor, cursor != header


async def has_ended(store: AsyncJobStore, job_id: str, cursor: str) -> bool:
    """Whether nothing follows ``cursor``, now or later. Raises JobNotFound."""
    record = await store.get(job_id)
    return record.terminal and not await store.events(job_id, after=cursor, limit=1)


async def stream(store: AsyncJobStore, hub: Hub, job_id: str, cursor: str) -> AsyncIterator[ServerSentEvent]:
    """Events after ``cursor``, until the job ends, the client lags too far behind, or the server stops.

    A store that goes away in the replay ends the stream without ``end``: the reconnect is a 503 until it is back.
    """
    watcher: Watcher | None = None
    try:
        async for event in _replay(store, job_id, cursor):
            cursor = event.id
            yield _sse(job_id, event)
        watcher = hub.join(job_id, cursor)
        # What came between the replay and joining, when the hub followed the job already and is ahead of us.
        async for event in _replay(store, job_id, cursor):
            cursor = event.id
            yield _sse(job_id, event)
        ended = await has_ended(store, job_id, cursor)
        while not ended:
            live = await _next(watcher)
            if live is None and watcher.dropped:
                return
            if live is not None and parse_event_id(live.id) > parse_event_id(cursor):
                cursor = live.id
                yield _sse(job_id, live)
            if live is not None and live.type not in _LAST:
                continue
            with contextlib.suppress(StoreUnavailable):  # the hub goes on when it is back
                if live is None:  # whatever the hub's place, this client's own is what counts
                    async for event in _replay(store, job_id, cursor):
                        cursor = event.id
                        yield _sse(job_id, event)
                ended = await has_ended(store, job_id, cursor)
        yield _end(cursor)
    except JobNotFound:  # deleted under the watcher
        yield _end(cursor)
    except StoreUnavailable:
        return
    finally:
        if watcher is not None:
            hub.leave(watcher)


async def _next(watcher: Watcher) -> Event | None:
    try:
        return await watcher.next(CHECK_SECONDS)
    except TimeoutError:
        return None


async def _replay(store: AsyncJobStore, job_id: str, cursor: str) -> AsyncIterator[Event]:
    while events := await store.events(job_id, after=cursor, limit=REPLAY_PAGE):
        for event in events:
            yield event
        cursor = events[-1].id


def _sse(job_id: str, event: Event) -> ServerSentEvent:
    data = to_json(event_view(job_id, event), inf_nan_mode="null").decode()
    return ServerSentEvent(event=event.type, id=event.id, data=data, sep="\n")


def _end(cursor: str) -> ServerSentEvent:
    return ServerSentEvent(event="end", id=cursor + END_SUFFIX, data='{"object":"end"}', sep="\n")
