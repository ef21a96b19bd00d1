"""The job store on Redis: :class:`workers.jobs.ports.JobStore` and its async form, over the same operations.

Needs Redis >= 6.2 or Valkey. Every method raises :class:`workers.jobs.errors.StoreUnavailable` when the server is away;
a write then either did not happen or is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from workers._redis import AsyncDriver, Driver
from workers._redis_ops import Ops
from workers.jobs.ports import Decide
from workers.jobs.record import Command, CommandAction, Event, JobRecord, Status, WorkerInfo

STATUSES: tuple[str, ...] = get_args(Status)


class RedisJobStore:
    """Blocks; safe for threads and across a fork.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with password.
        prefix: put before every key.
    """

    def __init__(self, url: str, prefix: str = "smartfrz:") -> None:
        self._driver, self._ops = Driver(url), Ops(prefix)

    def now(self) -> float:
        return self._driver.run(self._ops.now())

    def ping(self) -> None:
        self._driver.run(self._ops.ping())

    def create(self, record: JobRecord, *, idempotency: tuple[str, str] | None = None) -> tuple[JobRecord, bool]:
        return self._driver.run(self._ops.create(record, idempotency))

    def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None:
        return self._driver.run(self._ops.created_with(idempotency))

    def get(self, job_id: str) -> JobRecord:
        return self._driver.run(self._ops.get(job_id))

    def list(
        self,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        status: Collection[str] = (),
        name: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[JobRecord], bool]:
        return self._driver.run(self._ops.page(limit, after, newest_first, status, name, metadata))

    def update(self, job_id: str, decide: Decide) -> JobRecord:
        return self._driver.run(self._ops.update(job_id, decide))

    def delete(self, job_id: str) -> None:
        self._driver.run(self._ops.delete(job_id, STATUSES))

    def deleted(self) -> Sequence[str]:
        return self._driver.run(self._ops.deleted())

    def files_removed(self, job_id: str) -> None:
        self._driver.run(self._ops.files_removed(job_id))

    def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
        return self._driver.run(self._ops.queued(limit, after))

    def places(self, job_ids: Collection[str]) -> dict[str, int]:
        return self._driver.run(self._ops.places(job_ids))

    def oldest_queued(self) -> float | None:
        return self._driver.run(self._ops.oldest_queued())

    def active(self) -> Sequence[JobRecord]:
        return self._driver.run(self._ops.active())

    def counts(self) -> dict[str, int]:
        return self._driver.run(self._ops.counts(STATUSES))

    def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str:
        return self._driver.run(self._ops.append_event(job_id, event, fence))

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        return self._driver.run(self._ops.events(job_id, after, limit))

    def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None:
        self._driver.run(self._ops.put_freeze(job_id, fence, status))

    def get_freeze(self, job_id: str) -> dict[str, Any] | None:
        return self._driver.run(self._ops.get_freeze(job_id))

    def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int:
        return self._driver.run(self._ops.append_decision(job_id, fence, decision))

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]:
        return self._driver.run(self._ops.decisions(job_id, after, limit))

    def tallies(self) -> dict[str, float]:
        return self._driver.run(self._ops.tallies())

    def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int:
        return self._driver.run(self._ops.supersede_decisions(job_id, fence, after_step))

    def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]:
        return self._driver.run(self._ops.add_command(job_id, action, units, idempotency))

    def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        return self._driver.run(self._ops.commands(job_id, after, limit))

    def settle_command(self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None) -> bool:
        return self._driver.run(self._ops.settle_command(job_id, fence, seq, step, error))

    def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None:
        self._driver.run(self._ops.put_worker(worker, ttl_seconds))

    def remove_worker(self, worker_id: str) -> None:
        self._driver.run(self._ops.remove_worker(worker_id))

    def workers(self) -> Sequence[WorkerInfo]:
        return self._driver.run(self._ops.workers())

    def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool:
        return self._driver.run(self._ops.try_lock(name, holder, ttl_seconds))

    def close(self) -> None:
        self._driver.close()


class AsyncRedisJobStore:
    """For the event loop that first uses it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with password.
        prefix: put before every key.
    """

    def __init__(self, url: str, prefix: str = "smartfrz:") -> None:
        self._driver, self._ops = AsyncDriver(url), Ops(prefix)

    async def now(self) -> float:
        return await self._driver.run(self._ops.now())

    async def ping(self) -> None:
        await self._driver.run(self._ops.ping())

    async def create(self, record: JobRecord, *, idempotency: tuple[str, str] | None = None) -> tuple[JobRecord, bool]:
        return await self._driver.run(self._ops.create(record, idempotency))

    async def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None:
        return await self._driver.run(self._ops.created_with(idempotency))

    async def get(self, job_id: str) -> JobRecord:
        return await self._driver.run(self._ops.get(job_id))

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
        return await self._driver.run(self._ops.page(limit, after, newest_first, status, name, metadata))

    async def update(self, job_id: str, decide: Decide) -> JobRecord:
        return await self._driver.run(self._ops.update(job_id, decide))

    async def delete(self, job_id: str) -> None:
        await self._driver.run(self._ops.delete(job_id, STATUSES))

    async def deleted(self) -> Sequence[str]:
        return await self._driver.run(self._ops.deleted())

    async def files_removed(self, job_id: str) -> None:
        await self._driver.run(self._ops.files_removed(job_id))

    async def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
        return await self._driver.run(self._ops.queued(limit, after))

    async def places(self, job_ids: Collection[str]) -> dict[str, int]:
        return await self._driver.run(self._ops.places(job_ids))

    async def oldest_queued(self) -> float | None:
        return await self._driver.run(self._ops.oldest_queued())

    async def active(self) -> Sequence[JobRecord]:
        return await self._driver.run(self._ops.active())

    async def counts(self) -> dict[str, int]:
        return await self._driver.run(self._ops.counts(STATUSES))

    async def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str:
        return await self._driver.run(self._ops.append_event(job_id, event, fence))

    async def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        return await self._driver.run(self._ops.events(job_id, after, limit))

    async def wait_events(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, Sequence[Event]]:
        return await self._driver.run(self._ops.wait_events(cursors, block_ms))

    async def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None:
        await self._driver.run(self._ops.put_freeze(job_id, fence, status))

    async def get_freeze(self, job_id: str) -> dict[str, Any] | None:
        return await self._driver.run(self._ops.get_freeze(job_id))

    async def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int:
        return await self._driver.run(self._ops.append_decision(job_id, fence, decision))

    async def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]:
        return await self._driver.run(self._ops.decisions(job_id, after, limit))

    async def tallies(self) -> dict[str, float]:
        return await self._driver.run(self._ops.tallies())

    async def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int:
        return await self._driver.run(self._ops.supersede_decisions(job_id, fence, after_step))

    async def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]:
        return await self._driver.run(self._ops.add_command(job_id, action, units, idempotency))

    async def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        return await self._driver.run(self._ops.commands(job_id, after, limit))

    async def settle_command(self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None) -> bool:
        return await self._driver.run(self._ops.settle_command(job_id, fence, seq, step, error))

    async def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None:
        await self._driver.run(self._ops.put_worker(worker, ttl_seconds))

    async def remove_worker(self, worker_id: str) -> None:
        await self._driver.run(self._ops.remove_worker(worker_id))

    async def workers(self) -> Sequence[WorkerInfo]:
        return await self._driver.run(self._ops.workers())

    async def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool:
        return await self._driver.run(self._ops.try_lock(name, holder, ttl_seconds))

    async def close(self) -> None:
        await self._driver.close()
