"""Follow one job live: its events as they come, and its document about once a second, in one stream."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from client.api import Client
from client.errors import ClientError
from client.flows import Json
from client.sse import Event
from workers.jobs.record import TERMINAL


def watch(
    client: Client, job_id: str, *, after: str | None = None, poll_seconds: float = 1.0, settle_seconds: float = 5.0
) -> Iterator[Event | Json]:
    """Yield events and job documents until the job is terminal; the last item is its final document.

    Events are a convenience: when the stream breaks for good, polling goes on alone, and says how it ends. A
    service that is away is borne with for the client's ``patience_seconds``.

    Args:
        settle_seconds: how long to wait, after the end, for events still under way.

    Raises:
        ClientError: polling failed.
    """
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(client, job_id, after, events), daemon=True, name="events").start()
    streaming, next_poll = True, 0.0
    ended_at: float | None = None
    job: Json = {}
    patience = client.patience()
    while ended_at is None or (streaming and time.monotonic() < ended_at + settle_seconds):
        if ended_at is None and time.monotonic() >= next_poll:
            try:
                job = client.get(job_id)
            except ClientError as error:
                if not patience.bears(error):
                    raise
                next_poll = time.monotonic() + poll_seconds
                continue
            patience.heard()
            next_poll = time.monotonic() + poll_seconds
            if job["status"] in TERMINAL:
                ended_at = time.monotonic()
            else:
                yield job
        if not streaming:
            time.sleep(max(0.0, next_poll - time.monotonic()) if ended_at is None else 0.0)
            continue
        try:
            event = events.get(timeout=0.2)
        except queue.Empty:
            continue
        if event is None:
            streaming = False
        else:
            yield event
    yield job


def _pump(client: Client, job_id: str, after: str | None, events: queue.SimpleQueue[Event | None]) -> None:
    try:
        for event in client.events(job_id, after=after):
            events.put(event)
    except (ClientError, RuntimeError):  # RuntimeError: the client was closed meanwhile
        pass
    finally:
        events.put(None)
