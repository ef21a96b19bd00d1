"""Live events for any number of watchers: one task reads the store for all of them and fans out.

A watcher has a bounded queue. One that does not keep up is dropped, never waited for: it comes back with
``Last-Event-ID`` and misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from workers.jobs.codec import parse_event_id
from workers.jobs.errors import StoreUnavailable
from workers.jobs.ports import AsyncJobStore
from workers.jobs.record import Event

BLOCK_MS = 1000
"""Longest wait in one read; a job that gets its first watcher waits at most so long for its first live event."""

_RETRY_SECONDS = 1.0
_log = logging.getLogger("smartfrz.api")


class Watcher:
    """The queue of one client, which wants what follows ``cursor``. Iterate it with :meth:`next`."""

    def __init__(self, job_id: str, size: int, cursor: str) -> None:
        self.job_id = job_id
        self.dropped = False
        self._newest = parse_event_id(cursor)
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(size + 1)  # one place more for the end mark

    async def next(self, timeout_seconds: float) -> Event | None:
        """The next event, or ``None`` when it was dropped or the hub closed. Raises TimeoutError."""
        return await asyncio.wait_for(self._queue.get(), timeout_seconds)

    def offer(self, event: Event) -> bool:
        """Whether there was room. What lies before the cursor, or was offered already, takes none."""
        place = parse_event_id(event.id)
        if place <= self._newest:
            return True
        if self._queue.qsize() >= self._queue.maxsize - 1:
            return False
        self._newest = place
        self._queue.put_nowait(event)
        return True

    def end(self) -> None:
        """Discard what waits and end the iteration."""
        self.dropped = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)


class Hub:
    """Runs in the event loop of the API; ``async with`` starts and stops its reader."""

    def __init__(self, store: AsyncJobStore, *, buffer: int) -> None:
        self._store, self._buffer = store, buffer
        self._watchers: dict[str, set[Watcher]] = {}
        self._cursors: dict[str, str] = {}
        self._watched = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closing = asyncio.Event()
        """Set when the server stops: streams and waiting requests end."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def close(self) -> None:
        """End every stream now. Called when the server begins to stop."""
        self.closing.set()
        for watcher in [w for group in self._watchers.values() for w in group]:
            watcher.end()

    def join(self, job_id: str, cursor: str) -> Watcher:
        """Watch a job's events after ``cursor``.

        The hub reads from the earliest cursor on: an id from the future must not keep from others what comes before it.
        """
        watcher = Watcher(job_id, self._buffer, cursor)
        self._watchers.setdefault(job_id, set()).add(watcher)
        self._cursors[job_id] = min(cursor, self._cursors.get(job_id, cursor), key=parse_event_id)
        self._watched.set()
        if self.closing.is_set():
            watcher.end()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        group = self._watchers.get(watcher.job_id, set())
        group.discard(watcher)
        if not group:
            self._watchers.pop(watcher.job_id, None)
            self._cursors.pop(watcher.job_id, None)
        if not self._watchers:
            self._watched.clear()

    async def _read(self) -> None:
        while True:
            await self._watched.wait()
            asked = dict(self._cursors)
            try:
                news = await self._store.wait_events(asked, BLOCK_MS)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except Exception:
                _log.exception("reading events failed; trying again")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for job_id, events in news.items():
                # Somebody joined, or all left, while the read was under way: the next one begins at the right place.
                if events and self._cursors.get(job_id) == asked[job_id]:
                    self._fan_out(job_id, events)

    def _fan_out(self, job_id: str, events: Sequence[Event]) -> None:
        for event in events:
            for watcher in list(self._watchers.get(job_id, ())):
                if not watcher.offer(event):
                    _log.info("a watcher of %s lags by more than %d events: dropped", job_id, self._buffer)
                    watcher.end()
                    self._watchers[job_id].discard(watcher)
        if self._watchers.get(job_id):
            self._cursors[job_id] = events[-1].id
        else:
            self._watchers.pop(job_id, None)
            self._cursors.pop(job_id, None)
            if not self._watchers:
                self._watched.clear()
