"""The reaper over the in-memory store with a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from workers.jobs import state
from workers.jobs.errors import StoreUnavailable
from workers.jobs.memory import MemoryJobStore, MemoryWakeUp
from workers.jobs.record import JobRecord, Progress, WorkerInfo, new_job_id
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.settings import Settings

LEASE = 100.0


class Scene:
    def __init__(self) -> None:
        self.now, self.jumps = 1000.0, 0.0
        self.store = MemoryJobStore(lambda: self.now)
        self.wakeup = MemoryWakeUp()
        self.settings = Settings(lease_seconds=LEASE, stall_seconds=50.0, reap_seconds=10.0)
        self.reaper = self.another()

    def another(self) -> Reaper:
        return Reaper(self.store, self.wakeup, self.settings, monotonic=lambda: self.now - self.jumps)

    def jump(self, seconds: float) -> None:
        """The wall clock goes ahead, the monotonic one stands still: the machine slept, or NTP set its clock."""
        self.now += seconds
        self.jumps += seconds

    def job(self, processes: int = 1, **fields: Any) -> str:
        spec = JobSpec.model_validate(
            {
                "name": "t",
                "model": {"name": "m"},
                "data": {"name": "d"},
                "resources": {"processes_per_worker": processes},
                **fields,
            }
        )
        record = JobRecord(
            id=new_job_id(self.now), spec=spec, created_at=self.now, queued_at=self.now, updated_at=self.now
        )
        return self.store.create(record)[0].id

    def claim(self, job: str) -> None:
        self.store.update(job, lambda record, now: state.claim(record, now, owner="w", lease_seconds=LEASE))

    def two_claimed(self) -> tuple[str, str]:
        jobs = self.job(), self.job()
        for job in jobs:
            self.claim(job)
        return jobs

    def renew(self, job: str) -> None:
        self.store.update(job, lambda record, now: state.renew(record, now, fence=1, lease_seconds=LEASE))

    def progress(self, job: str, step: int, eta: float = 1.0) -> None:
        told = Progress(step=step, eta_seconds=eta)
        self.store.update(job, lambda record, now: state.report_progress(record, now, fence=1, progress=told))

    def worker(self, **fields: Any) -> None:
        info = WorkerInfo(id="w", host="h", pid=1, devices=["cpu"], max_processes=2, started_at=0, heartbeat_at=0)
        self.store.put_worker(info.model_copy(update=fields), 1e9)

    def count(self) -> int:
        return self.wakeup.count


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_fresh_reaper_waits_one_lease_before_it_judges(scene: Scene) -> None:
    job = scene.job()
    scene.claim(job)
    scene.now += 10 * LEASE
    scene.reaper.tick()
    assert scene.store.get(job).status == "starting"
    scene.now += LEASE
    scene.reaper.tick()
    record = scene.store.get(job)
    assert (record.status, record.status_reason) == ("queued", "worker_lost")


def test_after_the_store_was_away_it_waits_again(scene: Scene) -> None:
    scene.reaper.tick()
    scene.now += LEASE
    job = scene.job()
    scene.claim(job)
    scene.store.available = False
    with pytest.raises(StoreUnavailable):
        scene.reaper.tick()
    scene.store.available = True
    scene.now += LEASE + 1  # the lease ran out while nobody could renew
    scene.reaper.tick()
    assert scene.store.get(job).status == "starting"
    scene.now += LEASE
    scene.reaper.tick()
    assert scene.store.get(job).status == "queued"


@pytest.mark.parametrize("seconds", [LEASE + 1, 8 * 3600.0])
def test_after_a_jump_of_the_clock_every_runner_has_time_to_renew(scene: Scene, seconds: float) -> None:
    scene.reaper.tick()
    scene.now += LEASE
    alive, dead = scene.two_claimed()
    scene.reaper.tick()
    scene.jump(seconds)
    scene.reaper.tick()
    assert {scene.store.get(job).status for job in (alive, dead)} == {"starting"}
    for _ in range(9):
        scene.now += LEASE / 10
        scene.renew(alive)
        scene.reaper.tick()
    assert scene.store.get(dead).status == "starting"
    scene.now += LEASE / 10
    scene.reaper.tick()
    assert [scene.store.get(job).status for job in (alive, dead)] == ["starting", "queued"]


def test_after_the_clock_was_set_back_a_dead_runner_is_missed_all_the_same_and_a_living_one_is_not(
    scene: Scene,
) -> None:
    scene.now = 1e9
    scene.reaper = scene.another()
    scene.reaper.tick()
    scene.now += LEASE
    alive, dead = scene.two_claimed()
    scene.reaper.tick()
    scene.jump(-30 * 24 * 3600.0)
    for _ in range(10):
        scene.reaper.tick()
        assert {scene.store.get(job).status for job in (alive, dead)} == {"starting"}
        scene.now += LEASE / 10
        scene.renew(alive)
    scene.reaper.tick()
    assert [scene.store.get(job).status for job in (alive, dead)] == ["starting", "queued"]


def test_a_store_that_answers_slowly_and_clocks_that_drift_are_no_jump(scene: Scene) -> None:
    class Slow(MemoryJobStore):
        def now(self) -> float:
            scene.now += 15
            at = super().now()
            scene.now += 15  # longer than a renewal in all
            return at

    scene.store = Slow(lambda: scene.now)
    scene.reaper = scene.another()
    scene.reaper.tick()
    job = scene.job()
    scene.claim(job)
    for _ in range(6):
        scene.jump(1.0)
        scene.now += LEASE / 10
        scene.reaper.tick()
    assert scene.store.get(job).status == "queued"


def test_a_lease_that_holds_is_left_alone(scene: Scene) -> None:
    scene.reaper.tick()
    scene.now += LEASE
    job = scene.job()
    scene.claim(job)
    scene.now += LEASE - 1
    scene.reaper.tick()
    assert scene.store.get(job).status == "starting"


def test_the_last_attempt_lost_fails_the_job(scene: Scene) -> None:
    scene.reaper.tick()
    job = scene.job(max_attempts=1)
    scene.claim(job)
    scene.now += LEASE
    scene.reaper.tick()
    record = scene.store.get(job)
    assert (record.status, record.status_reason) == ("failed", "retries_exhausted")
    assert "worker w sent no heartbeat for 100 s" in (record.status_message or "")


def test_a_cancelled_job_whose_worker_died_ends_cancelled(scene: Scene) -> None:
    scene.reaper.tick()
    job = scene.job()
    scene.claim(job)
    scene.store.update(job, state.cancel)
    assert scene.store.get(job).status == "cancelling"
    scene.now += LEASE
    scene.reaper.tick()
    record = scene.store.get(job)
    assert (record.status, record.status_reason, record.owner) == ("cancelled", "user_request", None)


def test_only_one_of_two_reapers_acts_and_the_other_takes_over(scene: Scene) -> None:
    other = scene.another()
    scene.reaper.tick()
    other.tick()
    job = scene.job()
    scene.claim(job)
    for _ in range(30):  # the first holds the lock as long as it ticks
        scene.now += 10
        scene.reaper.tick()
        other.tick()
    assert scene.store.get(job).status == "queued"
    scene.claim(job)
    scene.now += LEASE + 1  # the first is gone
    other.tick()
    assert scene.store.get(job).status == "starting", "the successor's own waiting time begins"
    scene.now += LEASE
    other.tick()
    assert scene.store.get(job).status == "queued"


def test_it_says_why_jobs_wait_and_takes_it_back(scene: Scene) -> None:
    big, small = scene.job(processes=4), scene.job()
    scene.reaper.tick()
    assert scene.store.get(small).queue_reason == "no_workers: no worker is running"
    scene.worker()
    scene.reaper.tick()
    assert scene.store.get(small).queue_reason is None
    reason = "no_worker_fits: needs 4 processes, the largest worker offers 2"
    assert scene.store.get(big).queue_reason == reason
    version = scene.store.get(big).version
    scene.reaper.tick()
    assert scene.store.get(big).version == version, "nothing new to say, nothing written"


def test_it_looks_past_the_first_hundred_of_the_queue(scene: Scene) -> None:
    scene.worker()
    for _ in range(101):
        scene.job(processes=4)
    scene.now += 1
    fitting = scene.job()
    scene.reaper.tick()
    assert scene.count() == 1
    assert scene.store.get(fitting).queue_reason is None


def test_it_explains_and_wakes_however_long_the_queue_is(scene: Scene) -> None:
    scene.worker()
    for _ in range(1001):
        scene.job(resources={"device": "cuda"})
    scene.now += 1
    fitting, last = scene.job(), scene.job(processes=4)
    scene.reaper.tick()
    assert scene.count() == 1
    assert scene.store.get(fitting).queue_reason is None
    reason = "no_worker_fits: needs 4 processes, the largest worker offers 2"
    assert scene.store.get(last).queue_reason == reason


def test_it_leaves_a_long_queue_to_who_took_the_lock_meanwhile(scene: Scene) -> None:
    class Slow(MemoryJobStore):
        """Every page takes longer than the lock holds, and somebody waits for that."""

        def queued(self, limit: int = 100, *, after: JobRecord | None = None) -> Sequence[JobRecord]:
            page = super().queued(limit, after=after)
            scene.now += 31
            assert after is None
            self.try_lock(Reaper.LOCK, "another", 1e9)
            return page

    scene.store = Slow(lambda: scene.now)
    job = scene.job()
    scene.another().tick()
    assert scene.store.get(job).queue_reason is None


def test_records_that_cannot_be_read_do_not_keep_it_from_the_others(scene: Scene) -> None:
    scene.reaper.tick()
    lost, bad_held, bad_waiting, waiting = scene.job(), scene.job(), scene.job(), scene.job()
    scene.claim(lost)
    scene.claim(bad_held)
    for job in (bad_held, bad_waiting):
        scene.store._records[job] = "{}"
    scene.now += LEASE
    scene.reaper.tick()
    assert scene.store.get(lost).status == "queued"
    assert scene.store.get(waiting).queue_reason == "no_workers: no worker is running"


def test_it_sends_a_wake_up_only_for_a_job_that_an_idle_worker_fits(scene: Scene) -> None:
    scene.worker()
    scene.reaper.tick()
    assert scene.count() == 0
    scene.job(processes=4)
    scene.reaper.tick()
    assert scene.count() == 0
    scene.job()
    scene.reaper.tick()
    assert scene.count() == 1
    scene.worker(state="busy")
    scene.reaper.tick()
    assert scene.count() == 1


def test_nobody_is_woken_for_a_job_that_is_held_back_before_its_time(scene: Scene) -> None:
    scene.worker()
    job = scene.job()
    scene.claim(job)
    hand_back = partial(state.hand_back, fence=1, message="the disk is full", hold_seconds=30.0)
    scene.store.update(job, hand_back)
    scene.reaper.tick()
    assert scene.count() == 0
    assert (scene.store.get(job).queue_reason or "").startswith("held_back: ")
    scene.now += 30
    scene.reaper.tick()
    assert (scene.count(), scene.store.get(job).queue_reason) == (1, None)


def test_a_blocked_worker_is_not_woken_and_its_trouble_is_the_reason(scene: Scene) -> None:
    scene.worker(state="blocked", trouble="no room")
    job = scene.job()
    scene.reaper.tick()
    assert scene.count() == 0
    assert (scene.store.get(job).queue_reason or "").endswith("h: no room")


def test_a_job_without_progress_is_marked_and_unmarked(scene: Scene) -> None:
    scene.reaper.tick()
    job = scene.job()
    scene.claim(job)
    scene.progress(job, 1)
    scene.reaper.tick()
    scene.now += 49
    scene.progress(job, 1, eta=77.0)  # an estimate that moves is no progress
    scene.reaper.tick()
    assert not scene.store.get(job).stalled
    scene.now += 1
    scene.reaper.tick()
    assert scene.store.get(job).stalled
    scene.progress(job, 2)
    scene.reaper.tick()
    assert not scene.store.get(job).stalled
    assert [e.type for e in scene.store.events(job)][-2:] == ["job.stalled", "job.moving"]


def test_the_thread_outlives_failures_and_ends_when_told(scene: Scene) -> None:
    stop, ticks = threading.Event(), []

    class Stubborn(Reaper):
        def tick(self) -> None:
            ticks.append(1)
            if len(ticks) == 3:
                stop.set()
            raise StoreUnavailable("away") if len(ticks) == 1 else RuntimeError("a bug")

    settings = scene.settings.model_copy(update={"reap_seconds": 0.01})
    Stubborn(scene.store, scene.wakeup, settings).run_forever(stop)
    assert len(ticks) == 3
