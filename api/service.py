"""Use cases of the API, on ports. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from api.hub import Hub
from api.ports import WindowReader
from api.settings import ApiSettings
from workers.jobs import state
from workers.jobs.errors import JobNotFound, Problem, RecordUnreadable, SpecInvalid, no_start
from workers.jobs.layout import JobFiles
from workers.jobs.ports import AsyncJobStore, Change, WakeUp
from workers.jobs.record import Command, CommandAction, JobRecord, new_job_id
from workers.jobs.spec import JobSpec
from workers.removal import remove_files

Validate = Callable[[JobSpec, ApiSettings], Sequence[Problem]]
_log = logging.getLogger("smartfrz.api")


@dataclass(frozen=True, slots=True)
class Placed:
    """A record with its place in the queue (1 first; ``None`` when it does not wait) and the store's time."""

    record: JobRecord
    position: int | None
    now: float


@dataclass(frozen=True, slots=True)
class Jobs:
    """Everything that can be done with jobs. Made once, in the composition root."""

    settings: ApiSettings
    store: AsyncJobStore
    windows: WindowReader
    wakeup: WakeUp
    hub: Hub
    validate: Validate

    def files(self, job_id: str) -> JobFiles:
        return JobFiles(self.settings.home, job_id)

    async def check(self, spec: JobSpec) -> None:
        """Raises SpecInvalid."""
        problems = [*await anyio.to_thread.run_sync(self.validate, spec, self.settings), *await self._no_start(spec)]
        if problems:
            raise SpecInvalid(problems)

    async def _no_start(self, spec: JobSpec) -> list[Problem]:
        """What is wrong with the job whose weights ``spec`` starts from."""
        job_id, pointer = spec.model.init_from, "/model/init_from"
        if job_id is None:
            return []
        try:
            record = await self.store.get(job_id)
        except JobNotFound:
            return no_start(job_id).problems
        except RecordUnreadable as error:
            return [Problem(pointer, str(error), "RECORD_UNREADABLE")]
        if record.status != "succeeded":
            text = f"job {job_id} is {record.status}: only the weights of a job that succeeded can be a start"
            return [Problem(pointer, text, "NOT_SUCCEEDED")]
        if await anyio.to_thread.run_sync(lambda: self.files(job_id).weights) is None:
            return [Problem(pointer, f"the weights that job {job_id} left are gone", "WEIGHTS_GONE")]
        return []

    async def create(self, spec: JobSpec, *, idempotency_key: str | None = None) -> tuple[Placed, bool]:
        """Check, write, wake. Returns the job and whether it is new.

        A spec that was taken once is not checked again under its key: the limits, or files, may have changed since.

        Raises:
            SpecInvalid, IdempotencyConflict: nothing was written.
            StoreUnavailable: the whole job was written, or nothing; the same idempotency key tells which.
        """
        idempotency = (idempotency_key, body_hash(spec)) if idempotency_key is not None else None
        if idempotency is not None and (earlier := await self.store.created_with(idempotency)) is not None:
            return await self.place(earlier), False
        await self.check(spec)
        now = await self.store.now()
        record = JobRecord(id=new_job_id(now), spec=spec, created_at=now, queued_at=now, updated_at=now)
        stored, is_new = await self.store.create(record, idempotency=idempotency)
        if is_new:
            await self._wake()
        return await self.place(stored), is_new

    async def _wake(self) -> None:
        try:
            await anyio.to_thread.run_sync(self.wakeup.wake)
        except Exception as error:  # whatever the broker's client raises: the reaper sends another
            _log.warning("no wake-up was sent (%s); the reaper sends another", error)

    async def get(self, job_id: str) -> Placed:
        """Raises JobNotFound."""
        return await self.place(await self.store.get(job_id))

    async def place(self, record: JobRecord) -> Placed:
        return (await self.place_all([record]))[0]

    async def place_all(self, records: Sequence[JobRecord]) -> list[Placed]:
        """Add the places in the queue."""
        now = await self.store.now()
        places = await self.store.places([record.id for record in records if record.status == "queued"])
        return [Placed(r, places.get(r.id) if r.status == "queued" else None, now) for r in records]

    async def search(
        self,
        *,
        limit: int,
        after: str | None,
        newest_first: bool,
        status: Collection[str],
        name: str | None,
        metadata: dict[str, str],
    ) -> tuple[list[Placed], bool]:
        """One page and whether more follow."""
        records, more = await self.store.list(
            limit=limit, after=after, newest_first=newest_first, status=status, name=name, metadata=metadata or None
        )
        return await self.place_all(records), more

    async def wait(self, job_id: str, seconds: float, unchanged: Callable[[Placed], bool]) -> Placed:
        """The job as soon as its record changes, or as it is when the time is over or the server stops.

        At once where it is not ``unchanged`` already, or has ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(seconds, self.settings.wait_max_seconds)
        first = await self.get(job_id)
        if first.record.terminal or not unchanged(first):
            return first
        while (left := deadline - loop.time()) > 0 and not self.hub.closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.hub.closing.wait(), min(left, self.settings.wait_poll_seconds))
            record = await self.store.get(job_id)
            if record.version != first.record.version:
                return await self.place(record)
        return await self.get(job_id)

    async def cancel(self, job_id: str) -> tuple[Placed, bool]:
        """Ask for the end. Returns the job and whether this call changed it.

        Raises:
            JobNotFound.
            IllegalTransition: it succeeded or failed.
        """
        changed = False

        def decide(record: JobRecord, now: float) -> Change | None:
            nonlocal changed
            change = state.cancel(record, now)
            changed = change is not None
            return change

        record = await self.store.update(job_id, decide)
        return await self.place(record), changed

    async def delete(self, job_id: str) -> None:
        """Forget a job that has ended, or whose record cannot be read, and remove its files.

        Raises:
            JobNotFound.
            IllegalTransition: it has not ended, or one that has not ended starts from its weights.
        """
        await self.store.delete(job_id)
        await self.remove_deleted()

    async def remove_deleted(self) -> None:
        """Remove the files of deleted jobs, also what a crash, or ranks that still lived, left of earlier ones."""
        for job_id in await self.store.deleted():
            if await anyio.to_thread.run_sync(remove_files, self.files(job_id)):
                await self.store.files_removed(job_id)

    async def command(
        self, job_id: str, action: CommandAction, units: Sequence[str] | None, *, idempotency_key: str | None = None
    ) -> tuple[Command, JobRecord, bool]:
        """Leave an order about what is frozen; the trainer takes it within about a second. Returns whether it is new.

        Raises:
            JobNotFound, IdempotencyConflict.
            IllegalTransition: the job has ended.
        """
        body = _hash([action, None if units is None else list(units)])
        idempotency = (idempotency_key, body) if idempotency_key is not None else None
        command, is_new = await self.store.add_command(job_id, action, units, idempotency=idempotency)
        return command, await self.store.get(job_id), is_new


def body_hash(spec: JobSpec) -> str:
    """Hash of what a spec means: order of keys, white space and defaults left out or spelled out make no difference."""
    return _hash(spec.model_dump(mode="json"))


def _hash(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
