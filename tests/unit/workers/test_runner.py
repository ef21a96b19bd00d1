"""The runner with the in-memory store, a real guardian, real torchrun and stand-in ranks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from workers import proctree
from workers.devices import DevicePool, Gpu, Lease
from workers.jobs import state
from workers.jobs.errors import StoreUnavailable
from workers.jobs.layout import Control, JobFiles, Result, write_atomic
from workers.jobs.memory import MemoryJobStore
from workers.jobs.ports import Change
from workers.jobs.record import JobRecord, new_job_id
from workers.jobs.spec import JobSpec
from workers.judgement import Evidence, apply, judge
from workers.placement import Device
from workers.registry import current, describe
from workers.runner import Runner, stronger
from workers.settings import Settings
from workers.shared import Board

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        lease_seconds=3.0,
        renew_seconds=0.3,
        stop_grace_seconds=1.0,
        kill_grace_seconds=0.5,
        wake_seconds=600.0,  # what is held back stays so until the test ends
        rank_module="standin_rank",
    )


def spec(processes: int = 1, **fields: Any) -> JobSpec:
    metadata = {key: str(value) for key, value in fields.pop("metadata", {}).items()}
    return JobSpec.model_validate(
        {
            "name": "t",
            "model": {"name": "resnet-small"},
            "data": {"name": "mnist5k"},
            "resources": {"processes_per_worker": processes, "device": "cpu"},
            "metadata": metadata,
            **fields,
        }
    )


class Bench:
    """One worker around an in-memory store."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store, self.board = settings, MemoryJobStore(), Board()
        self.pool = DevicePool(settings.home, [], 2)
        self.environ = dict(os.environ) | {"PYTHONPATH": str(SUPPORT)}
        self.worker = describe(self.pool)
        self.runner = Runner(self.store, self.worker, self.pool, settings, board=self.board, environ=self.environ)
        self._thread: threading.Thread | None = None

    def submit(self, job: JobSpec) -> str:
        now = self.store.now()
        record = JobRecord(id=new_job_id(now), spec=job, created_at=now, queued_at=now, updated_at=now)
        return self.store.create(record)[0].id

    def work_aside(self) -> None:
        self._thread = threading.Thread(target=self.runner.work)
        self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
            self._thread = None

    def root(self, job_id: str) -> Path:
        return JobFiles(self.settings.home.resolve(), job_id).root

    def pids(self, job_id: str) -> list[int]:
        path = self.root(job_id) / "pids.jsonl"
        return [json.loads(line)["pid"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(local: Settings) -> Iterator[Bench]:
    bench = Bench(local)
    yield bench
    bench.board.draining = True
    bench.join()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_job_is_found_however_many_wait_before_it_that_do_not_fit(bench: Bench) -> None:
    unfit = spec(1, resources={"device": "cuda"})
    for _ in range(1001):
        bench.submit(unfit)
    job = bench.submit(spec(1))
    assert bench.runner.work() == 1
    assert bench.store.get(job).status == "succeeded"
    assert bench.store.counts() == {"queued": 1001, "succeeded": 1}


def test_a_record_that_cannot_be_read_does_not_hold_up_the_queue(bench: Bench) -> None:
    bad, good = bench.submit(spec(1, priority=5)), bench.submit(spec(1))
    bench.store._records[bad] = "{}"
    assert bench.runner.work() == 1
    assert bench.store.get(good).status == "succeeded"


def test_a_job_is_claimed_run_on_all_ranks_and_finished(bench: Bench) -> None:
    first, second = bench.submit(spec(2)), bench.submit(spec(1, priority=5))
    assert bench.runner.work() == 2
    for job in (first, second):
        record = bench.store.get(job)
        assert (record.status, record.summary, record.attempt) == ("succeeded", {"steps": 5}, 1)
        assert (record.progress.ratio, record.progress.step) == (1.0, 5), "though rank 0 never reported"
    assert bench.store.get(second).started_at < bench.store.get(first).started_at  # type: ignore[operator]
    assert len(bench.pids(first)) == 2
    log = JobFiles(bench.settings.home.resolve(), first).attempt(1).log(1)
    assert log.read_text() == "rank 1 starts at step 0\n"


def checkpoint(bench: Bench, job_id: str, fence: int) -> Path:
    """A checkpoint of an attempt, as far as the runner knows them."""
    path = JobFiles(bench.settings.home.resolve(), job_id).attempt(fence).checkpoints / "step-00000003"
    path.mkdir(parents=True)
    return path


def test_a_job_that_has_succeeded_keeps_no_checkpoint_of_any_attempt(bench: Bench) -> None:
    job = bench.submit(spec())
    saved = [checkpoint(bench, job, fence) for fence in (1, 2)]
    bench.runner.work()
    assert bench.store.get(job).status == "succeeded"
    assert not any(path.parent.exists() for path in saved)


def test_a_job_that_failed_keeps_them(bench: Bench) -> None:
    job = bench.submit(spec(metadata={"raise_at": 2}))
    saved = checkpoint(bench, job, 1)
    bench.runner.work()
    assert bench.store.get(job).status == "failed"
    assert saved.exists()


def test_a_job_that_does_not_fit_is_left_alone(bench: Bench) -> None:
    big, cuda = bench.submit(spec(3)), bench.submit(spec(resources={"device": "cuda"}))
    assert bench.runner.work() == 0
    assert {bench.store.get(job).status for job in (big, cuda)} == {"queued"}


def test_code_that_raises_fails_with_the_last_lines_of_its_log_and_is_not_retried(bench: Bench) -> None:
    job = bench.submit(spec(2, metadata={"raise_at": 2, "steps": 500}))
    assert bench.runner.work() == 1
    record = bench.store.get(job)
    assert (record.status, record.status_reason, record.attempt) == ("failed", "code_error", 1)
    assert "RuntimeError: the batch size does not divide the moon" in (record.status_message or "")
    assert not any(proctree.alive(pid) for pid in bench.pids(job))


def test_a_rank_killed_by_a_signal_is_retried_from_where_it_was(bench: Bench) -> None:
    job = bench.submit(spec(2, metadata={"kill_at": 3, "steps": 100}))
    assert bench.runner.work() == 2
    record = bench.store.get(job)
    assert (record.status, record.attempt) == ("succeeded", 2)
    recovered = [event for event in bench.store.events(job) if event.type == "job.recovered"]
    assert [event.data["message"] for event in recovered] == ["rank 1 was killed by signal 9"]
    lines = [json.loads(line) for line in (bench.root(job) / "journal-1.jsonl").read_text().splitlines()]
    assert [(line["fence"], line["step"]) for line in lines if line["what"] == "start"] == [(1, 0), (2, 3)]


@pytest.mark.parametrize(
    ("reason", "first", "last"),
    [
        ("gpu_oom", ("failed", "gpu_oom"), ("failed", "gpu_oom")),
        ("collective_timeout", ("queued", "worker_lost"), ("failed", "retries_exhausted")),
        ("storage_full", ("queued", "storage_full"), ("failed", "storage_full")),
    ],
)
def test_only_transient_failures_are_retried(reason: Any, first: tuple[str, str], last: tuple[str, str]) -> None:
    outcome = judge(Evidence(result=Result(outcome="failed", reason=reason, message="it says so")))
    for attempt, expected in ((1, first), (2, last)):
        queued = JobRecord(
            id="j", spec=spec(max_attempts=2), attempt=attempt - 1, created_at=0, queued_at=0, updated_at=0
        )
        claimed = state.claim(queued, 1.0, owner="w", lease_seconds=60)
        assert claimed is not None
        record = apply(claimed.record, 2.0, claimed.record.fence, outcome, 1).record
        assert (record.status, record.status_reason) == expected
        assert "it says so" in (record.status_message or "")


def test_what_the_worker_holds_but_does_not_run_is_given_back_at_once(bench: Bench) -> None:
    mine, other = bench.submit(spec(max_attempts=1)), bench.submit(spec())
    for job, owner in ((mine, bench.worker.id), (other, "another")):
        bench.store.update(job, partial(state.claim, owner=owner, lease_seconds=600.0))
    write_atomic(JobFiles(bench.settings.home.resolve(), mine).attempt(1).spec, "{}")  # its attempt was started
    assert bench.runner.work() == 0
    record = bench.store.get(mine)
    assert (record.status, record.status_reason) == ("failed", "retries_exhausted")
    assert f"worker {bench.worker.id} lost the attempt" in (record.status_message or "")
    assert bench.store.get(other).status == "starting"


def test_a_claim_whose_answer_was_lost_costs_no_attempt(bench: Bench) -> None:
    job = bench.submit(spec(max_attempts=1))
    bench.store.update(job, partial(state.claim, owner=bench.worker.id, lease_seconds=600.0))
    assert bench.runner.work() == 0
    record = bench.store.get(job)
    assert (record.status, record.attempt, record.fence, record.run_seconds) == ("queued", 0, 1, 0.0)
    assert record.status_message == f"worker {bench.worker.id} claimed the job but did not hear that it had it"
    bench.store.update(job, lambda seen, now: Change(seen.model_copy(update={"not_before": now})))
    assert bench.runner.work() == 1
    assert (bench.store.get(job).status, bench.store.get(job).attempt) == ("succeeded", 1)


def test_the_lease_is_renewed_and_cancel_stops_the_ranks_at_a_step(bench: Bench) -> None:
    job = bench.submit(spec(2, metadata={"steps": 5000}))
    bench.work_aside()
    first = bench.store.get(job).lease_expires_at or 0.0
    until(lambda: len(bench.pids(job)) == 2)
    until(lambda: (bench.store.get(job).lease_expires_at or 0.0) > first)  # the lease is renewed
    bench.store.update(job, state.cancel)
    bench.join()
    record = bench.store.get(job)
    assert (record.status, record.status_reason) == ("cancelled", "user_request")
    assert not any(proctree.alive(pid) for pid in bench.pids(job))


def test_ranks_that_ignore_everything_are_killed_with_all_their_children(bench: Bench) -> None:
    job = bench.submit(spec(2, metadata={"steps": 5000, "stubborn": 1, "grandchild": 1}))
    bench.work_aside()
    until(lambda: len(bench.pids(job)) == 4)
    bench.store.update(job, state.cancel)
    bench.join()
    assert bench.store.get(job).status == "cancelled"
    assert not any(proctree.alive(pid) for pid in bench.pids(job))


def test_drain_hands_the_job_back_and_the_attempt_does_not_count(bench: Bench) -> None:
    job = bench.submit(spec(metadata={"steps": 5000}))
    bench.work_aside()
    until(lambda: bench.pids(job))
    bench.board.draining = True
    bench.join()
    record = bench.store.get(job)
    assert (record.status, record.attempt, record.fence) == ("queued", 0, 1)
    assert bench.runner.work() == 0  # a draining worker claims nothing


def test_a_job_is_ended_after_its_maximum_duration(bench: Bench) -> None:
    job = bench.submit(spec(max_duration_seconds=0.5, metadata={"steps": 5000}))
    bench.runner.work()
    record = bench.store.get(job)
    assert (record.status, record.status_reason) == ("failed", "max_duration_exceeded")
    assert record.status_message == "ran longer than max_duration_seconds (0.5)"


def test_a_step_of_the_clock_is_no_time_in_which_the_job_ran(bench: Bench) -> None:
    """By it the next attempt would be over ``max_duration_seconds`` at once, and the job would fail for good."""
    job = bench.submit(spec(2, max_duration_seconds=3600, metadata={"kill_at": 20, "steps": 200}))
    bench.work_aside()
    until(lambda: len(bench.pids(job)) == 2)
    bench.store._clock = lambda: time.time() + 30 * 24 * 3600.0
    bench.join()
    record = bench.store.get(job)
    assert (record.status, record.attempt) == ("succeeded", 2)
    assert 0.0 < record.run_seconds < 600.0
    assert bench.store.tallies()["run:succeeded:sum"] == record.run_seconds


def test_a_heartbeat_tells_how_long_the_attempt_has_run(bench: Bench) -> None:
    job = bench.submit(spec(metadata={"steps": 5000}))
    bench.work_aside()
    until(lambda: bench.store.get(job).attempt_seconds > 0.0)
    assert bench.store.get(job).attempt_seconds < 600.0


def test_a_stale_fence_ends_the_ranks_at_once_and_leaves_the_record_alone(bench: Bench) -> None:
    job = bench.submit(spec(metadata={"steps": 5000, "stubborn": 1}))
    bench.work_aside()
    until(lambda: bench.pids(job))

    def take_over(record: JobRecord, now: float) -> Any:
        lost = state.lose(record, now, fence=record.fence, message="judged dead")
        return state.claim(lost.record, now, owner="another", lease_seconds=60)

    bench.store.update(job, take_over)
    bench.join()
    record = bench.store.get(job)
    assert (record.owner, record.fence, record.status) == ("another", 2, "starting")
    assert not any(proctree.alive(pid) for pid in bench.pids(job))


def test_a_record_that_goes_bad_under_its_ranks_ends_them_and_the_queue_goes_on(bench: Bench) -> None:
    bad, good = bench.submit(spec(1, priority=5, metadata={"steps": 10_000})), bench.submit(spec(1))
    bench.work_aside()
    until(lambda: bench.pids(bad))
    bench.store._records[bad] = "{"
    bench.join()
    assert not any(proctree.alive(pid) for pid in bench.pids(bad))
    assert bench.store.get(good).status == "succeeded"


def test_training_goes_on_while_the_store_is_away(bench: Bench) -> None:
    job = bench.submit(spec(metadata={"steps": 60}))
    bench.work_aside()
    until(lambda: bench.pids(job))
    bench.store.available = False
    attempt = JobFiles(bench.settings.home.resolve(), job).attempt(1)
    until(attempt.result.exists)
    bench.store.available = True
    bench.join()
    assert bench.store.get(job).status == "succeeded"


def test_a_job_whose_flock_is_held_lives_elsewhere_and_neither_loses_attempts_nor_a_slot(bench: Bench) -> None:
    """As after a partition: the lease has run out, but the ranks of another host train on."""
    job, other = bench.submit(spec(max_attempts=1)), bench.submit(spec())
    bench.root(job).mkdir(parents=True)
    runner = Runner(
        bench.store,
        bench.worker,
        bench.pool,
        bench.settings,
        board=bench.board,
        environ=bench.environ,
        lock_wait_seconds=0.2,
    )
    with open(bench.root(job) / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert runner.work() == 2
        record = bench.store.get(job)
        assert (record.status, record.attempt, record.fence) == ("queued", 0, 1)
        assert record.held_back(bench.store.now())
        assert (bench.store.get(other).status, bench.board.false_starts) == ("succeeded", 0)
        assert runner.work() == 0, "it is not tried again at once"
    bench.store.update(job, lambda seen, now: Change(seen.model_copy(update={"not_before": now})))
    assert runner.work() == 1
    assert (bench.store.get(job).status, bench.store.get(job).attempt) == ("succeeded", 1)


def test_devices_are_given_back_when_the_claim_fails(local: Settings) -> None:
    bench = Bench(local)
    gpu = Gpu(0, "GPU-0")

    class Flaky(DevicePool):
        def acquire(self, device: Device, count: int) -> Lease | None:
            bench.store.available = False  # goes away between taking the device and claiming the job
            return super().acquire(device, count)

    pool = Flaky(local.home, [gpu], 1)
    bench.submit(spec(resources={"device": "cuda"}))
    runner = Runner(bench.store, describe(pool), pool, local)
    with pytest.raises(StoreUnavailable):
        runner.work()
    lease = DevicePool(local.home, [gpu], 1).acquire("cuda", 1)
    assert lease is not None
    lease.release()


def test_cancel_outranks_the_other_orders() -> None:
    assert stronger("drain", "cancel") == "cancel"
    assert stronger("cancel", "drain") == "cancel"
    assert stronger(None, "pause") == "pause"
    assert stronger("pause", None) == "pause"


def test_an_order_that_comes_too_late_for_the_guardian_loses_no_outcome(bench: Bench) -> None:
    class Late(Runner):
        def _tend(self, attempt: Any) -> None:
            attempt.guardian.kill()
            attempt.guardian.wait()
            self._tell(attempt, b"T")

    job = bench.submit(spec(max_attempts=1))
    late = Late(bench.store, describe(bench.pool), bench.pool, bench.settings, environ=bench.environ)
    assert late.work() == 1
    message = "the guardian was killed by signal 9; attempt 1 of 1 was the last"
    assert bench.store.get(job).status_message == message


def test_a_job_that_cannot_be_started_says_so_at_once_keeps_its_attempts_and_lets_others_pass(bench: Bench) -> None:
    job, other = bench.submit(spec(max_attempts=1)), bench.submit(spec())
    bench.root(job).parent.mkdir(parents=True)
    bench.root(job).write_text("a file where the job's folder should be")
    assert bench.runner.work() == 2
    record = bench.store.get(job)
    assert (record.status, record.attempt, record.fence) == ("queued", 0, 1)
    assert record.held_back(bench.store.now())
    assert (record.status_message or "").startswith("the worker could not start the attempt: ")
    assert bench.store.get(other).status == "succeeded"
    assert bench.board.false_starts == 0, "an attempt that trained clears the worker of suspicion"


def test_a_worker_that_cannot_write_its_disk_claims_nothing_and_says_so(bench: Bench) -> None:
    jobs = [bench.submit(spec(max_attempts=1)) for _ in range(20)]
    blocker = bench.settings.home / "jobs"
    bench.settings.home.mkdir()
    blocker.write_text("a file where the folder of all jobs should be")
    for _ in jobs:  # a message for each of them waits
        assert bench.runner.work() == 0
    assert {(r.status, r.attempt, r.fence) for r in map(bench.store.get, jobs)} == {("queued", 0, 0)}
    told = current(bench.worker, bench.board, 0.0)
    assert (told.state, told.trouble) == ("blocked", f"cannot write to {blocker.resolve()}: File exists")
    blocker.unlink()
    for job in jobs[1:]:
        bench.store.update(job, state.cancel)
    assert bench.runner.work() == 1
    assert (bench.store.get(jobs[0]).status, bench.board.trouble) == ("succeeded", None)


def test_a_worker_whose_attempts_never_begin_rests_after_three_and_fails_no_job(bench: Bench) -> None:
    class Full(Runner):
        def _start(self, record: JobRecord, lease: Lease) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    jobs = [bench.submit(spec(max_attempts=1)) for _ in range(5)]
    full = Full(bench.store, bench.worker, bench.pool, bench.settings, board=bench.board)
    assert [full.work() for _ in jobs] == [3, 0, 0, 0, 0]
    records = [bench.store.get(job) for job in jobs]
    assert {(record.status, record.attempt) for record in records} == {("queued", 0)}
    told = current(bench.worker, bench.board, 0.0)
    assert told.state == "blocked"
    assert "3 attempts in a row ended before their first step; resting for 60 s" in (told.trouble or "")
    assert "No space left on device" in (told.trouble or "")
    bench.board.rest_until = 0.0  # the rest is over
    assert [full.work(), full.work()] == [1, 0], "one try, and it rests again"
    bench.board.rest_until = 0.0
    assert bench.runner.work() == 1
    assert [bench.store.get(job).status for job in jobs] == 4 * ["queued"] + ["succeeded"]
    assert (bench.board.false_starts, bench.board.trouble) == (0, None)


def test_attempts_lost_before_their_first_step_count_as_false_starts(bench: Bench) -> None:
    job = bench.submit(spec(2, max_attempts=5, metadata={"kill_at_once": 1}))
    assert bench.runner.work() == 3
    record = bench.store.get(job)
    assert (record.status, record.attempt, bench.board.false_starts) == ("queued", 3, 3)


def test_cancel_works_while_the_job_starts_and_though_the_order_cannot_be_written(bench: Bench) -> None:
    class Blocked(Runner):
        def _start(self, *args: Any) -> Any:
            attempt = super()._start(*args)
            attempt.files.control.mkdir()
            return attempt

    job = bench.submit(spec(metadata={"steps": 5000}))
    bench.runner = Blocked(bench.store, bench.worker, bench.pool, bench.settings, environ=bench.environ)
    bench.work_aside()
    until(lambda: bench.store.get(job).status == "starting")
    bench.store.update(job, state.cancel)
    bench.join()
    assert bench.store.get(job).status == "cancelled"
    assert not any(proctree.alive(pid) for pid in bench.pids(job))


@pytest.mark.parametrize("number", [1, 3])
def test_nothing_of_an_attempt_that_the_store_has_forgotten_is_believed(bench: Bench, number: int) -> None:
    """As after a restore from an older backup: the fence counts from there once more."""
    job = bench.submit(spec(2, max_attempts=1, metadata={"raise_at": 2, "steps": 500}))
    old = JobFiles(bench.settings.home.resolve(), job).attempt(number)
    write_atomic(old.result, Result(outcome="succeeded", step=9, summary={"steps": 9}).model_dump_json())
    write_atomic(old.control, Control(action="cancel").model_dump_json())
    write_atomic(old.metrics, '{"step": 9}')
    bench.runner.work()
    record = bench.store.get(job)
    assert (record.status, record.status_reason, record.fence) == ("failed", "code_error", 1)
    assert old.metrics.read_text() == '{"step": 9}'
    newest = JobFiles(bench.settings.home.resolve(), job).attempts()[-1]
    assert newest == JobFiles(bench.settings.home.resolve(), job).attempt(number + 1)
    assert newest.log(0).exists()


def test_ranks_do_not_get_the_admin_key(bench: Bench) -> None:
    environ = bench.environ | {"SMARTFRZ_ADMIN_KEY": "secret", "SMARTFRZ_ADMIN_KEY_FILE": "/key"}
    runner = Runner(bench.store, describe(bench.pool), bench.pool, bench.settings, environ=environ)
    assert not {name for name in runner._rank_environment(1) if "ADMIN_KEY" in name}
