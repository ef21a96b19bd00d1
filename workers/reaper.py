"""Puts right what crashed workers and lost messages leave behind: expired leases, jobs that wait without a word,
lost wake-ups, stalled jobs; and deletes what is kept no longer. One reaper at a time, by a lock with a TTL; it runs as
a thread in the API's lifespan.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.jobs import state
from workers.jobs.errors import JobNotFound, RecordUnreadable, StoreUnavailable
from workers.jobs.ports import Decide, JobStore, WakeUp
from workers.jobs.record import JobRecord, WorkerInfo
from workers.placement import fits, why_waiting
from workers.queue_pages import queue_pages
from workers.retention import Retention
from workers.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a job's progress looked like, and since when (monotonic seconds)."""

    attempt: int
    progress: str
    since: float


def mark(record: JobRecord, before: Mark | None, at: float) -> Mark:
    """The mark of now: the earlier one while neither the attempt nor the progress has changed."""
    progress = record.progress.model_copy(update={"eta_seconds": None}).model_dump_json()
    if before is not None and (before.attempt, before.progress) == (record.fence, progress):
        return before
    return Mark(record.fence, progress, at)


def should_wake(queued: Sequence[JobRecord], workers: Sequence[WorkerInfo]) -> bool:
    """Whether an idle worker could take one of these jobs: its message may have been lost."""
    idle = [worker for worker in workers if worker.state == "idle"]
    return any(fits(record, worker) for record in queued for worker in idle)


class Reaper:
    """Args:
    store: the truth about jobs.
    wakeup: sends a wake-up.
    settings: lease, pauses.
    monotonic: clock of this process, for waiting times; expiry is judged by the store's clock.
    """

    LOCK = "reaper"

    def __init__(
        self, store: JobStore, wakeup: WakeUp, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._wakeup, self._settings, self._monotonic = store, wakeup, settings, monotonic
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._judge_from: float | None = None
        self._ahead: tuple[float, float] | None = None
        self._marks: dict[str, Mark] = {}
        self._retention = Retention(store, settings)

    def tick(self) -> None:
        """One look. Raises StoreUnavailable.

        No lease is judged before one lease TTL has passed since the first look, since the store was away, or since
        its clock jumped (a suspended machine, a step of NTP either way): nobody could renew, and all need a chance to.
        """
        try:
            self._tick()
        except StoreUnavailable:
            self._judge_from = None
            raise

    def _tick(self) -> None:
        if not self._lock():
            self._judge_from = None  # when the lock comes to us, we look for the first time
            return
        now, jumped = self._clocks()
        at = self._monotonic()
        if jumped:
            logger.warning("the store's clock jumped: no lease is judged for %g s", self._settings.lease_seconds)
        if jumped or self._judge_from is None:
            self._judge_from = at + self._settings.lease_seconds
        active = self._store.active()
        self._watch(active, at)
        if at >= self._judge_from:
            for record in active:
                if state.lease_over(record, now):
                    logger.warning("job %s: the lease of %s has expired", record.id, record.owner)
                    self._update(record.id, state.reap)
        self._explain()
        if at >= self._judge_from:  # not by a clock that has just jumped: it may jump back
            self._retention.round(now, self._lock)

    def _lock(self) -> bool:
        """Take the lock, or renew it; whether it is ours."""
        return self._store.try_lock(self.LOCK, self._holder, 3 * self._settings.reap_seconds)

    def _clocks(self) -> tuple[float, bool]:
        """The store's time, and whether since the last look it gained more on this process's clock than a renewal
        takes, or lost as much. How long the store takes to answer is neither."""
        asked = self._monotonic()
        now = self._store.now()
        least, most = now - self._monotonic(), now - asked
        before, self._ahead = self._ahead, (least, most)
        jumped = before is not None and max(least - before[1], before[0] - most) > self._settings.renew_seconds
        return now, jumped

    def _watch(self, active: Sequence[JobRecord], at: float) -> None:
        self._marks = {record.id: mark(record, self._marks.get(record.id), at) for record in active}
        for record in active:
            stalled = at - self._marks[record.id].since >= self._settings.stall_seconds
            if stalled != record.stalled:
                self._update(record.id, _stalled(stalled))

    def _explain(self) -> None:
        workers, now, woken = self._store.workers(), self._store.now(), False
        for page in queue_pages(self._store):
            if not self._lock():  # a long queue takes time, and nobody else may do it meanwhile
                return
            for record in page:
                reason = why_waiting(record, workers, now)
                if reason != record.queue_reason:
                    self._update(record.id, _explained(reason))
            if not woken and should_wake([record for record in page if not record.held_back(now)], workers):
                self._wakeup.wake()
                woken = True

    def _update(self, job_id: str, decide: Decide) -> None:
        try:
            self._store.update(job_id, decide)
        except JobNotFound:
            logger.info("job %s was deleted meanwhile", job_id)
        except RecordUnreadable as error:
            logger.warning("%s", error)

    def run_forever(self, stop: threading.Event) -> None:
        """Tick every ``reap_seconds`` until ``stop``; no failure ends it."""
        while not stop.is_set():
            try:
                self.tick()
            except StoreUnavailable as error:
                logger.warning("the store does not answer: %s", error)
            except Exception:  # a thread that ends unseen would leave every later crash unnoticed
                logger.exception("the reaper failed in this round; it goes on")
            stop.wait(self._settings.reap_seconds)


def _stalled(stalled: bool) -> Decide:
    return lambda record, now: state.mark_stalled(record, now, stalled=stalled)


def _explained(reason: str | None) -> Decide:
    return lambda record, now: state.explain_queue(record, now, reason=reason)
