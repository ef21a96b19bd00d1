"""Ports of the job kernel. Each has an in-memory twin in ``memory.py`` and one contract suite over both.

A record changes by compare-and-swap only: ``update(job_id, change)`` loads it, calls the pure ``change``, and writes
the outcome if nobody wrote meanwhile, else does so again. Queue, lease index and event stream follow from the record,
in the same atomic write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.jobs.record import Command, CommandAction, Event, JobRecord, WorkerInfo


@dataclass(frozen=True, slots=True)
class Change:
    """Outcome of a pure decision about one record: the new record and the events that tell of it."""

    record: JobRecord
    events: tuple[Event, ...] = field(default=())


Decide = Callable[[JobRecord, float], Change | None]
"""``(record, now) -> Change``, or ``None`` for "leave it". Pure: it may be called more than once."""


class JobStore(Protocol):
    """The truth about jobs. Every method may raise :class:`workers.jobs.errors.StoreUnavailable`.

    No write makes a record that cannot be read again. One that lies in the store all the same (damaged, or of another
    version) is left out of what returns many, with a line in the log; what names it raises RecordUnreadable.
    """

    def now(self) -> float:
        """The store's clock, Unix seconds: one clock for all hosts."""

    def ping(self) -> None: ...

    def create(self, record: JobRecord, *, idempotency: tuple[str, str] | None = None) -> tuple[JobRecord, bool]:
        """Write a new record, put it into the queue, append ``job.created``; all or nothing.

        Args:
            idempotency: (key, hash of the body), kept 24 h.

        Returns:
            The record and whether it is new; an earlier one when the key was used with the same body.

        Raises:
            IdempotencyConflict: the key was used with another body.
            SpecInvalid: the record could not be read again, or the job whose weights it starts from is not there.
        """

    def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None:
        """The job that :meth:`create` made with this key and hash of the body, as it is now; ``None`` for none yet.

        Raises:
            IdempotencyConflict: the key was used with another body.
        """

    def get(self, job_id: str) -> JobRecord:
        """Raises JobNotFound, RecordUnreadable."""

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
        """One page, ordered by id, and whether more follow. ``after`` is the last id of the page before."""

    def update(self, job_id: str, decide: Decide) -> JobRecord:
        """Change a record by compare-and-swap. Returns what is stored now.

        Raises:
            JobNotFound, and what ``decide`` raises.
            RecordUnreadable: it cannot be read, or the change would make it so; nothing was written.
        """

    def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
        """Jobs that wait for a worker, first to run first; fewer than ``limit`` only where the queue ends.

        Args:
            after: last record of the page before. It goes on behind its place, whether or not the job still waits.
        """

    def places(self, job_ids: Collection[str]) -> dict[str, int]:
        """The place in the queue, 1 first, of each of these jobs that waits. Reads no record."""

    def oldest_queued(self) -> float | None:
        """When the job that waits longest was queued, Unix seconds to about 2 ms; ``None`` when none waits."""

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended: record, events, freezing, commands, its idempotency key; all or nothing.

        One whose record cannot be read goes in any status: it can neither run on nor be cancelled.
        Its files are not the store's: the id stays in :meth:`deleted` until they are gone, whatever crashes meanwhile.

        Raises:
            JobNotFound.
            IllegalTransition: it has not ended, or one that has not ended starts from its weights.
        """

    def deleted(self) -> Sequence[str]:
        """Ids of deleted jobs whose files may still be there, sorted."""

    def files_removed(self, job_id: str) -> None:
        """Nothing is left of a deleted job. A repeat is no error."""

    def active(self) -> Sequence[JobRecord]:
        """Jobs that are neither queued, paused nor terminal."""

    def counts(self) -> dict[str, int]:
        """Number of jobs by status."""

    def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str:
        """Append to the job's stream and return the entry's id. With a fence: StaleFence when it is not current."""

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        """Entries after an id, oldest first."""

    def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None:
        """Replace the freeze status document. Raises StaleFence."""

    def get_freeze(self, job_id: str) -> dict[str, Any] | None: ...

    def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int:
        """Append to the decision stream and return its seq (1, 2, ...). Raises StaleFence."""

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]:
        """Decisions with ``seq`` > after, oldest first. Each carries seq, fence, step, superseded."""

    def tallies(self) -> dict[str, float]:
        """Totals over all jobs there ever were, deleted ones and superseded decisions too, by the names of
        :mod:`workers.jobs.tally`. :meth:`update` and :meth:`append_decision` add to them, in the same atomic write.
        """

    def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int:
        """Mark decisions later than a checkpoint as superseded; returns how many. Raises StaleFence."""

    def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]:
        """Append an order to the job's commands.

        Args:
            idempotency: (key, hash of the body), kept 24 h; keys of one job's commands are apart from all others.

        Returns:
            The command and whether it is new; an earlier one when the key was used with the same body.

        Raises:
            JobNotFound.
            IllegalTransition: the job has ended.
            IdempotencyConflict: the key was used with another body.
        """

    def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        """Commands with ``seq`` > after, oldest first, each with what became of it."""

    def settle_command(self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None) -> bool:
        """Write down what became of a command, and append ``command.applied`` or, with an error, ``command.refused``.

        Returns:
            Whether this was news; a repeat of the same outcome changes nothing and tells nothing.

        Raises:
            StaleFence.
            ValueError: there is no such command.
        """

    def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None: ...

    def remove_worker(self, worker_id: str) -> None: ...

    def workers(self) -> Sequence[WorkerInfo]:
        """Workers whose heartbeat has not expired; one that cannot be read is left out, with a line in the log."""

    def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a named lock with a TTL."""

    def close(self) -> None:
        """Give back connections."""


class AsyncJobStore(Protocol):
    """:class:`JobStore` for an event loop: the same methods, the same obligations, and :meth:`wait_events`."""

    async def now(self) -> float: ...
    async def ping(self) -> None: ...
    async def create(
        self, record: JobRecord, *, idempotency: tuple[str, str] | None = None
    ) -> tuple[JobRecord, bool]: ...
    async def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None: ...
    async def get(self, job_id: str) -> JobRecord: ...
    async def list(
        self,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        status: Collection[str] = (),
        name: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[JobRecord], bool]: ...
    async def update(self, job_id: str, decide: Decide) -> JobRecord: ...
    async def delete(self, job_id: str) -> None: ...
    async def deleted(self) -> Sequence[str]: ...
    async def files_removed(self, job_id: str) -> None: ...
    async def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]: ...
    async def places(self, job_ids: Collection[str]) -> dict[str, int]: ...
    async def oldest_queued(self) -> float | None: ...
    async def active(self) -> Sequence[JobRecord]: ...
    async def counts(self) -> dict[str, int]: ...
    async def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str: ...
    async def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]: ...
    async def wait_events(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, Sequence[Event]]:
        """Wait until one of the jobs has entries after its cursor; empty when ``block_ms`` (< 5000) pass without.

        One reader calls this for all watchers of all jobs, and fans out.
        """

    async def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None: ...
    async def get_freeze(self, job_id: str) -> dict[str, Any] | None: ...
    async def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int: ...
    async def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]: ...
    async def tallies(self) -> dict[str, float]: ...
    async def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int: ...
    async def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]: ...
    async def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]: ...
    async def settle_command(
        self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None
    ) -> bool: ...
    async def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None: ...
    async def remove_worker(self, worker_id: str) -> None: ...
    async def workers(self) -> Sequence[WorkerInfo]: ...
    async def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool: ...
    async def close(self) -> None: ...


class WakeUp(Protocol):
    """Tells workers that there is work. May be lost: the reaper sends another."""

    def wake(self) -> None: ...
