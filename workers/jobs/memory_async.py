"""The in-memory twin of the job store for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from workers.jobs.memory import MemoryJobStore
from workers.jobs.ports import Decide
from workers.jobs.record import Command, CommandAction, Event, JobRecord, WorkerInfo


class AsyncMemoryJobStore:
    """:class:`workers.jobs.ports.AsyncJobStore` over a :class:`MemoryJobStore`, whose calls never block for long."""

    def __init__(self, store: MemoryJobStore | None = None) -> None:
        self.sync = store or MemoryJobStore()

    async def now(self) -> float:
        return self.sync.now()

    async def ping(self) -> None:
        self.sync.ping()

    async def create(self, record: JobRecord, *, idempotency: tuple[str, str] | None = None) -> tuple[JobRecord, bool]:
        return self.sync.create(record, idempotency=idempotency)

    async def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None:
        return self.sync.created_with(idempotency)

    async def get(self, job_id: str) -> JobRecord:
        return self.sync.get(job_id)

    async def list(
        self,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        status: Collection[str] = (),
        name: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[JobRecord], bool]:
        return self.sync.list(
            limit=limit, after=after, newest_first=newest_first, status=status, name=name, metadata=metadata
        )

    async def update(self, job_id: str, decide: Decide) -> JobRecord:
        return self.sync.update(job_id, decide)

    async def delete(self, job_id: str) -> None:
        self.sync.delete(job_id)

    async def deleted(self) -> Sequence[str]:
        return self.sync.deleted()

    async def files_removed(self, job_id: str) -> None:
        self.sync.files_removed(job_id)

    async def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
        return self.sync.queued(limit, after=after)

    async def places(self, job_ids: Collection[str]) -> dict[str, int]:
        return self.sync.places(job_ids)

    async def oldest_queued(self) -> float | None:
        return self.sync.oldest_queued()

    async def active(self) -> Sequence[JobRecord]:
        return self.sync.active()

    async def counts(self) -> dict[str, int]:
        return self.sync.counts()

    async def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str:
        return self.sync.append_event(job_id, event, fence=fence)

    async def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        return self.sync.events(job_id, after=after, limit=limit)

    async def wait_events(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, Sequence[Event]]:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        end = self.sync.listen(lambda: loop.call_soon_threadsafe(news.set))
        deadline = loop.time() + block_ms / 1000
        try:
            while True:
                news.clear()
                found = {job: self.sync.events(job, after=after) for job, after in cursors.items()}
                found = {job: events for job, events in found.items() if events}
                if found or loop.time() >= deadline:
                    return found
                try:
                    await asyncio.wait_for(news.wait(), deadline - loop.time())
                except TimeoutError:
                    return {}
        finally:
            end()

    async def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None:
        self.sync.put_freeze(job_id, fence, status)

    async def get_freeze(self, job_id: str) -> dict[str, Any] | None:
        return self.sync.get_freeze(job_id)

    async def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int:
        return self.sync.append_decision(job_id, fence, decision)

    async def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]:
        return self.sync.decisions(job_id, after=after, limit=limit)

    async def tallies(self) -> dict[str, float]:
        return self.sync.tallies()

    async def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int:
        return self.sync.supersede_decisions(job_id, fence, after_step=after_step)

    async def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]:
        return self.sync.add_command(job_id, action, units, idempotency=idempotency)

    async def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        return self.sync.commands(job_id, after=after, limit=limit)

    async def settle_command(self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None) -> bool:
        return self.sync.settle_command(job_id, fence, seq, step=step, error=error)

    async def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None:
        self.sync.put_worker(worker, ttl_seconds)

    async def remove_worker(self, worker_id: str) -> None:
        self.sync.remove_worker(worker_id)

    async def workers(self) -> Sequence[WorkerInfo]:
        return self.sync.workers()

    async def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool:
        return self.sync.try_lock(name, holder, ttl_seconds)

    async def close(self) -> None:
        self.sync.close()
