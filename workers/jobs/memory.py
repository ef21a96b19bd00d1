"""In-memory twins of the kernel's ports. They keep the same obligations as the real ones: one contract suite runs over
both. Documents are kept as JSON text, so what does not survive a real store does not survive here."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workers.jobs import tally
from workers.jobs.codec import (
    decision_step,
    dumps,
    outcome_event,
    parse_event_id,
    read_record,
    read_records,
    record_or_none,
    write_new_record,
    write_record,
)
from workers.jobs.errors import (
    IdempotencyConflict,
    IllegalTransition,
    JobNotFound,
    StaleFence,
    StoreUnavailable,
    no_start,
)
from workers.jobs.ports import Decide
from workers.jobs.record import LEASED, TERMINAL, Command, CommandAction, Event, JobRecord, WorkerInfo, queue_score
from workers.jobs.state import may_delete, still_needed

IDEMPOTENCY_SECONDS = 24 * 3600.0
MAX_EVENTS = 10_000


class MemoryJobStore:
    """:class:`workers.jobs.ports.JobStore` in this process, safe for threads.

    Set ``available = False`` to play a store that does not answer.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.available = True
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[str, str] = {}
        self._statuses: dict[str, str] = {}
        self._idempotency: dict[str, tuple[str, str, float]] = {}
        self._events: dict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=MAX_EVENTS))
        self._freeze: dict[str, str] = {}
        self._decisions: dict[str, list[str]] = defaultdict(list)
        self._tallies: dict[str, float] = defaultdict(float)
        self._superseded: dict[str, set[int]] = defaultdict(set)
        self._commands: dict[str, list[str]] = defaultdict(list)
        self._starts: dict[str, set[str]] = defaultdict(set)
        self._deleted: set[str] = set()
        self._workers: dict[str, tuple[WorkerInfo, float]] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._listeners: list[Callable[[], object]] = []

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if not self.available:
                raise StoreUnavailable("the in-memory store is switched off")
            yield

    def now(self) -> float:
        with self._open():
            return self._clock()

    def ping(self) -> None:
        with self._open():
            pass

    # --- records

    def create(self, record: JobRecord, *, idempotency: tuple[str, str] | None = None) -> tuple[JobRecord, bool]:
        with self._open():
            if idempotency is not None and (earlier := self.created_with(idempotency)) is not None:
                return earlier, False
            if record.id in self._records:
                raise ValueError(f"job {record.id} exists already")
            text = write_new_record(record.model_copy(update={"version": 1}))
            if (start := record.spec.model.init_from) is not None:
                if start not in self._records:
                    raise no_start(start)
                self._starts[start].add(record.id)
            if idempotency is not None:
                until = self._clock() + IDEMPOTENCY_SECONDS
                self._idempotency[idempotency[0]] = (idempotency[1], record.id, until)
            stored = self._write(record, text)
            data = {"status": record.status, "attempt": record.attempt}
            self._append(record.id, Event(type="job.created", at=record.created_at, data=data))
            return stored, True

    def created_with(self, idempotency: tuple[str, str]) -> JobRecord | None:
        with self._open():
            body, job_id, expires = self._idempotency.get(idempotency[0], ("", "", 0.0))
            if expires <= self._clock():
                return None
            if body != idempotency[1]:
                raise IdempotencyConflict(idempotency[0])
            return self.get(job_id)

    def get(self, job_id: str) -> JobRecord:
        with self._open():
            if job_id not in self._records:
                raise JobNotFound(job_id)
            return read_record(job_id, self._records[job_id])

    def _all(self) -> Sequence[JobRecord]:
        """Every record that can be read, by id."""
        return read_records(sorted(self._records.items()))

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
        with self._open():
            found = [r for r in self._all() if matches(r, status=status, name=name, metadata=metadata)]
            if newest_first:
                found.reverse()
            if after is not None:
                found = [r for r in found if (r.id < after if newest_first else r.id > after)]
            return found[:limit], len(found) > limit

    def update(self, job_id: str, decide: Decide) -> JobRecord:
        with self._open():
            record = self.get(job_id)
            change = decide(record, self._clock())
            if change is None:
                return record
            new = change.record.model_copy(update={"version": record.version + 1})
            stored = self._write(new, write_record(new))
            self._add(tally.of_change(record, new))
            for event in change.events:
                self._append(job_id, event)
            return stored

    def _write(self, record: JobRecord, text: str) -> JobRecord:
        self._records[record.id], self._statuses[record.id] = text, record.status
        return self.get(record.id)

    def delete(self, job_id: str) -> None:
        with self._open():
            if job_id not in self._statuses:
                raise JobNotFound(job_id)
            found = record_or_none(job_id, self._records[job_id])
            may_delete(job_id, self._statuses[job_id], readable=found is not None)
            for other in self._starts[job_id] if found else ():
                if (its_status := self._statuses.get(other, "failed")) not in TERMINAL:
                    raise still_needed(job_id, self._statuses[job_id], other, its_status)
            if found:
                self._starts.get(found.spec.model.init_from or "", set()).discard(job_id)
            for kept in (
                self._records,
                self._statuses,
                self._events,
                self._freeze,
                self._decisions,
                self._superseded,
                self._commands,
                self._starts,
            ):
                kept.pop(job_id, None)
            self._idempotency = {key: made for key, made in self._idempotency.items() if made[1] != job_id}
            self._deleted.add(job_id)

    def deleted(self) -> Sequence[str]:
        with self._open():
            return sorted(self._deleted)

    def files_removed(self, job_id: str) -> None:
        with self._open():
            self._deleted.discard(job_id)

    def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
        with self._open():
            queue = self._queue()
            return [r for r in queue if after is None or _place(r) > _place(after)][:limit]

    def places(self, job_ids: Collection[str]) -> dict[str, int]:
        with self._open():
            return {r.id: place for place, r in enumerate(self._queue(), 1) if r.id in job_ids}

    def oldest_queued(self) -> float | None:
        with self._open():
            return min((r.queued_at for r in self._queue()), default=None)

    def _queue(self) -> Sequence[JobRecord]:
        return sorted((r for r in self._all() if r.status == "queued"), key=_place)

    def active(self) -> Sequence[JobRecord]:
        with self._open():
            return [r for r in self._all() if r.status in LEASED]

    def counts(self) -> dict[str, int]:
        with self._open():
            return dict(Counter(self._statuses.values()))

    def _fenced(self, job_id: str, fence: int) -> None:
        record = self.get(job_id)
        if record.fence != fence or record.status not in LEASED:
            raise StaleFence(job_id, fence, record.fence)

    # --- events

    def append_event(self, job_id: str, event: Event, *, fence: int | None = None) -> str:
        with self._open():
            self.get(job_id) if fence is None else self._fenced(job_id, fence)
            return self._append(job_id, event)

    def _append(self, job_id: str, event: Event) -> str:
        stream = self._events[job_id]
        key = (int(self._clock() * 1000), 0)
        if stream:
            last = parse_event_id(stream[-1].id)
            key = max(key, (last[0], last[1] + 1))
        stored = Event(id=f"{key[0]}-{key[1]}", type=event.type, at=event.at, data=json.loads(dumps(event.data)))
        stream.append(stored)
        for listener in list(self._listeners):
            listener()
        return stored.id

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        start = parse_event_id(after)
        with self._open():
            return [e for e in self._events.get(job_id, ()) if parse_event_id(e.id) > start][:limit]

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` after each new event, in the writer's thread. Returns what ends that."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- freezing

    def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> None:
        with self._open():
            self._fenced(job_id, fence)
            self._freeze[job_id] = dumps(status)

    def get_freeze(self, job_id: str) -> dict[str, Any] | None:
        with self._open():
            text = self._freeze.get(job_id)
            return None if text is None else dict(json.loads(text))

    def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> int:
        decision_step(decision)
        with self._open():
            self._fenced(job_id, fence)
            self._decisions[job_id].append(dumps({**decision, "fence": fence}))
            self._add(tally.of_decision(decision))
            return len(self._decisions[job_id])

    def decisions(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[dict[str, Any]]:
        with self._open():
            gone = self._superseded.get(job_id, set())
            texts = self._decisions.get(job_id, [])[after : after + limit]
            return [{**json.loads(t), "seq": s, "superseded": s in gone} for s, t in enumerate(texts, after + 1)]

    def tallies(self) -> dict[str, float]:
        with self._open():
            return dict(self._tallies)

    def _add(self, amounts: dict[str, float]) -> None:
        for name, amount in amounts.items():
            self._tallies[name] += amount

    def supersede_decisions(self, job_id: str, fence: int, *, after_step: int) -> int:
        with self._open():
            self._fenced(job_id, fence)
            texts = self._decisions.get(job_id, [])
            later = {s for s, text in enumerate(texts, 1) if json.loads(text)["step"] > after_step}
            fresh = later - self._superseded[job_id]
            self._superseded[job_id] |= fresh
            return len(fresh)

    # --- commands

    def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        *,
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Command, bool]:
        with self._open():
            record, known = self.get(job_id), self._commands[job_id]
            slot = f"{job_id}:command:{idempotency[0]}" if idempotency is not None else ""
            if idempotency is not None:
                body, seq, expires = self._idempotency.get(slot, ("", "", 0.0))
                if expires > self._clock():
                    if body != idempotency[1]:
                        raise IdempotencyConflict(idempotency[0])
                    return Command.model_validate_json(known[int(seq) - 1]), False
            if record.terminal:
                raise IllegalTransition(job_id, record.status, action)
            named = None if units is None else tuple(units)
            command = Command(seq=len(known) + 1, action=action, units=named, at=self._clock())
            known.append(command.model_dump_json())
            if idempotency is not None:
                until = self._clock() + IDEMPOTENCY_SECONDS
                self._idempotency[slot] = (idempotency[1], str(command.seq), until)
            return command, True

    def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        with self._open():
            texts = self._commands.get(job_id, [])[after : after + limit]
            return [Command.model_validate_json(text) for text in texts]

    def settle_command(self, job_id: str, fence: int, seq: int, *, step: int, error: str | None = None) -> bool:
        with self._open():
            self._fenced(job_id, fence)
            known = self._commands[job_id]
            if not 1 <= seq <= len(known):
                raise ValueError(f"job {job_id} has no command {seq}")
            command = Command.model_validate_json(known[seq - 1])
            outcome = {"state": "refused" if error else "applied", "applied_at_step": step, "error": error}
            settled = command.model_copy(update=outcome | {"settled_at": self._clock()})
            if command == settled.model_copy(update={"settled_at": command.settled_at}):
                return False
            known[seq - 1] = settled.model_dump_json()
            self._append(job_id, outcome_event(settled))
            return True

    # --- workers and locks

    def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None:
        with self._open():
            self._workers[worker.id] = (worker, self._clock() + ttl_seconds)

    def remove_worker(self, worker_id: str) -> None:
        with self._open():
            self._workers.pop(worker_id, None)

    def workers(self) -> Sequence[WorkerInfo]:
        with self._open():
            now = self._clock()
            return [worker for _, (worker, expires) in sorted(self._workers.items()) if expires > now]

    def try_lock(self, name: str, holder: str, ttl_seconds: float) -> bool:
        with self._open():
            owner, expires = self._locks.get(name, ("", 0.0))
            if owner != holder and expires > self._clock():
                return False
            self._locks[name] = (holder, self._clock() + ttl_seconds)
            return True

    def close(self) -> None:
        """Nothing to close; here for the port's sake."""


def _place(record: JobRecord) -> tuple[float, str]:
    return queue_score(record), record.id


def matches(
    record: JobRecord, *, status: Collection[str] = (), name: str | None = None, metadata: dict[str, str] | None = None
) -> bool:
    """Whether a record passes the filters of a listing."""
    return (
        (not status or record.status in status)
        and (name is None or record.spec.name == name)
        and all(record.spec.metadata.get(key) == value for key, value in (metadata or {}).items())
    )


class MemoryWakeUp:
    """:class:`workers.jobs.ports.WakeUp` that counts."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def wake(self) -> None:
        with self._lock:
            self.count += 1
