"""Claim a job that fits this worker, run one attempt of it under a guardian, write down how it ended; again until
nothing is left. On ports: a :class:`JobStore` and the file system; no Celery, no torch.

The runner trains nothing and may die at any moment: the guardian then takes the ranks down, the lease runs out, and
the reaper queues the job again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.devices import DevicePool, Lease
from workers.evidence import gather, oom_kills
from workers.fitness import trouble
from workers.guardian import Orders
from workers.jobs import state
from workers.jobs.errors import JobError, JobNotFound, RecordUnreadable, StaleFence, StoreUnavailable
from workers.jobs.layout import AttemptFiles, AttemptSpec, Control, JobFiles, drop_checkpoints, write_atomic
from workers.jobs.ports import Change, Decide, JobStore
from workers.jobs.record import JobRecord, WorkerInfo
from workers.judgement import Order, Outcome, apply, false_start, judge, not_started
from workers.placement import Device, choose, device_of
from workers.queue_pages import queue_pages
from workers.settings import Settings
from workers.shared import Board

logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 10.0
"""Time for the ranks of a dead worker to be taken down. Whoever holds the job's flock longer is alive."""

MAX_FALSE_STARTS = 3
"""After so many in a row a worker rests: what it does to one job it would do to the whole queue."""

_RANK: dict[Order | None, int] = {None: 0, "drain": 1, "pause": 2, "max_duration": 3, "cancel": 4}


def stronger(current: Order | None, new: Order | None) -> Order | None:
    """The order that holds when both were given: cancel before max_duration, pause, drain."""
    return new if _RANK[new] > _RANK[current] else current


@dataclass(slots=True)
class _Attempt:
    """One attempt in flight."""

    record: JobRecord
    files: AttemptFiles
    guardian: subprocess.Popen[bytes]
    started: float
    order: Order | None = None
    term_at: float | None = None
    renew_at: float = 0.0
    look_at: float = 0.0
    oom_kills: int = field(default_factory=oom_kills)


class Runner:
    """Args:
    store: the truth about jobs.
    worker: what this worker is and offers.
    pool: its devices.
    settings: lease, graces, home.
    board: flags shared with the worker's main process.
    environ: environment of the ranks.
    lock_wait_seconds: how long an attempt waits for an earlier one of its job to be gone.
    """

    def __init__(
        self,
        store: JobStore,
        worker: WorkerInfo,
        pool: DevicePool,
        settings: Settings,
        *,
        board: Board | None = None,
        environ: Mapping[str, str] | None = None,
        rank_module: str | None = None,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    ) -> None:
        self._store, self._worker, self._pool, self._settings = store, worker, pool, settings
        self._board = board or Board()
        self._environ = dict(os.environ if environ is None else environ)
        self._rank_module = rank_module or settings.rank_module
        self._lock_wait_seconds = lock_wait_seconds
        self._home = settings.home.resolve()

    def work(self) -> int:
        """Run jobs until none is left that fits; returns how many were run. Raises StoreUnavailable while idle."""
        done = 0
        self._recover()
        while not self._board.draining and self._fit():
            claimed = self._claim()
            if claimed is None:
                break
            record, lease = claimed
            self._board.job_id = record.id
            try:
                with lease:
                    self._run(record, lease)
                self._tidy(record.id)
            finally:
                self._board.job_id = None
            done += 1
        return done

    def _fit(self) -> bool:
        """Whether this worker may claim; the board, and so its heartbeat, says why not."""
        if time.monotonic() < self._board.rest_until:
            return False
        self._board.trouble = trouble(self._home, self._settings.min_free_mib)
        if self._board.trouble is not None:
            logger.warning("nothing is claimed: %s", self._board.trouble)
        return self._board.trouble is None

    def _tidy(self, job_id: str) -> None:
        """Drop the checkpoints of a job that has succeeded: its artifacts hold the weights. Not before its record says
        so: were the outcome lost, the next attempt would have to train it all again."""
        try:
            if self._store.get(job_id).status == "succeeded":
                drop_checkpoints(JobFiles(self._home, job_id))
        except JobError as error:
            logger.info("job %s: its checkpoints stay: %s", job_id, error)

    def _recover(self) -> None:
        """Give back what this worker holds without running it, in place of letting the lease run out: the job of a
        pool child that was killed, or a claim whose answer was lost, which costs no attempt: nothing was started."""
        for record in self._store.active():
            if record.owner != self._worker.id:
                continue
            logger.warning("job %s: held but not run; giving it back", record.id)
            if record.status == "starting" and not self._begun(record):
                text = f"worker {record.owner} claimed the job but did not hear that it had it"
                outcome = Outcome("hand_back", text, began=False)
            else:
                outcome = Outcome("lose", f"worker {record.owner} lost the attempt")
            self._write_down(record, outcome, None)

    def _begun(self, record: JobRecord) -> bool:
        """Whether the attempt has a spec: it is written before anything is started."""
        return os.path.exists(JobFiles(self._home, record.id).attempt(record.fence).spec)  # raises nothing

    def _claim(self) -> tuple[JobRecord, Lease] | None:
        taken: set[tuple[Device, int]] = set()
        for page in queue_pages(self._store):
            if (claimed := self._claim_of(list(page), taken)) is not None:
                return claimed
        return None

    def _claim_of(self, queued: list[JobRecord], taken: set[tuple[Device, int]]) -> tuple[JobRecord, Lease] | None:
        """The first of these that can be had. ``taken``: device and ranks for which nothing was free in this look."""
        while (record := choose(queued, self._worker)) is not None:
            queued.remove(record)
            resources = record.spec.resources
            device, processes = device_of(resources, self._worker), resources.processes_per_worker
            if device is None or (device, processes) in taken:
                continue
            lease = self._pool.acquire(device, processes)
            if lease is None:
                taken.add((device, processes))
                continue
            try:
                claimed = self._try_claim(record.id)
            except BaseException:
                lease.release()
                raise
            if claimed is not None:
                return claimed, lease
            lease.release()
        return None

    def _try_claim(self, job_id: str) -> JobRecord | None:
        mine = False

        def decide(record: JobRecord, now: float) -> Change | None:
            nonlocal mine
            change = state.claim(record, now, owner=self._worker.id, lease_seconds=self._settings.lease_seconds)
            mine = change is not None
            return change

        try:
            record = self._store.update(job_id, decide)
        except (JobNotFound, RecordUnreadable):
            return None
        return record if mine else None

    def _run(self, record: JobRecord, lease: Lease) -> None:
        logger.info("job %s: attempt %d on %s", record.id, record.attempt, lease.uuids or lease.device)
        try:
            attempt = self._start(record, lease)
        except OSError as error:
            logger.exception("job %s: not started", record.id)
            outcome = not_started(error)
            self._write_down(record, outcome, None)
            self._stumble(outcome.message)
            return
        assert attempt.guardian.stdin is not None
        try:
            while attempt.guardian.poll() is None:
                self._tend(attempt)
                time.sleep(0.05)
        except (StaleFence, JobNotFound, RecordUnreadable) as error:
            logger.warning("job %s: ending its ranks: %s", record.id, error)
            self._tell(attempt, b"K")
            attempt.guardian.wait()
            return
        finally:
            attempt.guardian.stdin.close()  # end of file: whatever is left comes down
            attempt.guardian.wait()
        ran = time.monotonic() - attempt.started
        evidence = gather(
            attempt.files,
            record.spec.resources.processes_per_worker,
            exit_code=attempt.guardian.returncode,
            order=attempt.order,
            oom_kills=oom_kills() - attempt.oom_kills,
        )
        outcome = judge(evidence, max_duration_seconds=record.spec.max_duration_seconds)
        logger.info("job %s: %s %s", record.id, outcome.kind, outcome.status if outcome.kind == "finish" else "")
        seen = self._write_down(record, outcome, attempt.guardian.returncode, ran)
        steps = max(evidence.result.step if evidence.result else 0, seen.progress.step if seen else 0)
        if false_start(outcome, steps):
            self._stumble(outcome.message)
        elif outcome.kind != "hand_back":
            self._board.false_starts = 0

    def _stumble(self, message: str | None) -> None:
        """Count a false start; after too many in a row, rest."""
        self._board.false_starts += 1
        if self._board.false_starts < MAX_FALSE_STARTS:
            return
        rest = self._settings.rest_seconds
        self._board.rest_until = time.monotonic() + rest
        text = f"{self._board.false_starts} attempts in a row ended before their first step; resting for {rest:g} s"
        self._board.trouble = f"{text}. The last one: {message}"
        logger.error("%s", self._board.trouble)

    def _start(self, record: JobRecord, lease: Lease) -> _Attempt:
        began = time.monotonic()
        settings, processes = self._settings, record.spec.resources.processes_per_worker
        job = JobFiles(self._home, record.id)
        files = job.fresh(record.fence)
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        spec = AttemptSpec(
            job_id=record.id,
            fence=record.fence,
            attempt=record.attempt,
            spec=record.spec,
            home=str(self._home),
            worker_id=self._worker.id,
            device=lease.device,
            threads_per_rank=threads,
        )
        write_atomic(files.spec, spec.model_dump_json(indent=1))
        files.logs.mkdir(parents=True, exist_ok=True)
        orders = Orders(
            attempt_root=files.root,
            lock=job.lock,
            lock_wait_seconds=self._lock_wait_seconds,
            processes=processes,
            rank_module=self._rank_module,
            kill_grace_seconds=settings.kill_grace_seconds,
        )
        with open(files.logs / "guardian.log", "ab") as log:
            guardian = subprocess.Popen(
                [sys.executable, "-m", "workers.guardian", orders.model_dump_json()],
                bufsize=0,  # an order to a guardian that has just gone must not come up again at close
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._rank_environment(threads) | lease.environment,
                pass_fds=lease.fds,
                start_new_session=True,
            )
        return _Attempt(record, files, guardian, began, renew_at=began + settings.renew_seconds, look_at=began)

    def _rank_environment(self, threads: int) -> dict[str, str]:
        settings = self._settings
        # User code runs in the ranks: what it does not need of the service's secrets it does not get.
        inherited = {name: text for name, text in self._environ.items() if not name.startswith("SMARTFRZ_ADMIN_KEY")}
        environ = inherited | {
            "SMARTFRZ_HOME": str(self._home),
            "SMARTFRZ_KEY_PREFIX": settings.key_prefix,
            "SMARTFRZ_PACKAGES_DIR": str(settings.packages.resolve()),
            "OMP_NUM_THREADS": str(threads),
        }
        if settings.redis_url is not None:
            environ["SMARTFRZ_REDIS_URL"] = settings.redis_url
            environ["SMARTFRZ_WINDOW_REDIS_URL"] = settings.window_redis_url or settings.redis_url
        environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host: keep them off the network
        return environ

    def _tend(self, attempt: _Attempt) -> None:
        """Renew, look for orders, pass them on. Raises StaleFence, JobNotFound, RecordUnreadable."""
        now, settings, record = time.monotonic(), self._settings, attempt.record
        order: Order | None = "drain" if self._board.draining else None
        limit = record.spec.max_duration_seconds
        if limit is not None and record.run_seconds + now - attempt.started > limit:
            order = stronger(order, "max_duration")
        try:
            if now >= attempt.renew_at:
                attempt.renew_at = now + settings.renew_seconds
                self._store.update(record.id, self._renewal(record, now - attempt.started))
            if now >= attempt.look_at:
                attempt.look_at = now + min(1.0, settings.renew_seconds)
                seen = self._store.get(record.id)
                if seen.fence != record.fence or seen.owner != record.owner:
                    raise StaleFence(record.id, record.fence, seen.fence)
                order = stronger(order, seen.stop_requested)
        except StoreUnavailable as error:  # "cannot reach" is not "failed": the flock keeps a second run out
            logger.warning("job %s: training goes on without the store: %s", record.id, error)
        if stronger(attempt.order, order) != attempt.order:
            attempt.order = stronger(attempt.order, order)
            assert attempt.order is not None
            action = "cancel" if attempt.order == "max_duration" else attempt.order
            grace = settings.stop_grace_seconds
            try:
                write_atomic(attempt.files.control, Control(action=action).model_dump_json())
            except OSError as error:  # a full disk, say: the ranks cannot be asked, so they are told
                logger.warning("job %s: the order %s cannot be written: %s", record.id, action, error)
                grace = 0.0
            attempt.term_at = attempt.term_at or now + grace
        if attempt.term_at is not None and now >= attempt.term_at:
            attempt.term_at = float("inf")
            self._tell(attempt, b"T")

    def _renewal(self, record: JobRecord, ran_seconds: float) -> Decide:
        told: dict[str, float] = {"lease_seconds": self._settings.lease_seconds, "ran_seconds": ran_seconds}
        return lambda seen, now: state.renew(seen, now, fence=record.fence, **told)

    def _tell(self, attempt: _Attempt, order: bytes) -> None:
        assert attempt.guardian.stdin is not None
        try:
            attempt.guardian.stdin.write(order)
        except BrokenPipeError:
            logger.info("job %s: the guardian has already gone", attempt.record.id)

    def _write_down(
        self, record: JobRecord, outcome: Outcome, exit_code: int | None, ran_seconds: float | None = None
    ) -> JobRecord | None:
        """Write the outcome; wait for the store as long as it takes, but a draining worker one lease at most.

        Args:
            ran_seconds: how long the attempt ran; ``None``: as long as the last heartbeat told.

        Returns:
            The record as it is then; ``None`` when nothing was written.
        """
        give_up: float | None = None
        hold = self._settings.wake_seconds

        def decide(seen: JobRecord, now: float) -> Change:
            return apply(seen, now, record.fence, outcome, exit_code, hold_seconds=hold, ran_seconds=ran_seconds)

        while True:
            try:
                return self._store.update(record.id, decide)
            except (StaleFence, JobNotFound) as error:
                logger.warning("job %s: its outcome is not wanted any more: %s", record.id, error)
                return None
            except RecordUnreadable as error:
                logger.error("job %s: its outcome cannot be written: %s", record.id, error)
                return None
            except StoreUnavailable as error:
                if self._board.draining and give_up is None:
                    give_up = time.monotonic() + self._settings.lease_seconds
                if give_up is not None and time.monotonic() > give_up:
                    logger.error("job %s: outcome lost, the store does not answer: %s", record.id, error)
                    return None
                time.sleep(0.5)
