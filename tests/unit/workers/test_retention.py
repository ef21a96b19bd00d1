"""What is kept no longer goes, a bounded piece at a time; what somebody needs stays."""

from __future__ import annotations

import fcntl
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from workers.jobs import state
from workers.jobs.layout import JobFiles
from workers.jobs.memory import MemoryJobStore, MemoryWakeUp
from workers.jobs.record import JobRecord, new_job_id
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.retention import DAY, DELETED, LOOKED_AT, SWEEP_ROUNDS, Retention
from workers.settings import Settings


class Shelf:
    """An installation that keeps jobs for ten days."""

    def __init__(self, home: Path, keep_days: float = 10.0) -> None:
        self.now = 1e9
        self.store = MemoryJobStore(lambda: self.now)
        self.settings = Settings(home=home, keep_days=keep_days, lease_seconds=100.0, reap_seconds=10.0)
        self.retention = Retention(self.store, self.settings)

    def job(self, status: Any = "succeeded", start: str | None = None) -> str:
        """A job made now, that has come to this status, and a file of it."""
        spec = JobSpec.model_validate({"name": "t", "model": {"name": "m", "init_from": start}, "data": {"name": "d"}})
        record = JobRecord(
            id=new_job_id(self.now), spec=spec, created_at=self.now, queued_at=self.now, updated_at=self.now
        )
        job_id = self.store.create(record)[0].id
        if status != "queued":
            self.store.update(job_id, partial(state.claim, owner="w", lease_seconds=1e9))
        if status not in ("queued", "starting"):
            self.store.update(job_id, partial(state.finish, fence=1, status=status))
        files = self.files(job_id)
        files.root.mkdir(parents=True)
        files.lock.touch()
        self.now += 1.0
        return job_id

    def files(self, job_id: str) -> JobFiles:
        return JobFiles(self.settings.home, job_id)

    def round(self, goes_on: bool = True) -> None:
        self.retention.round(self.now, lambda: goes_on)

    def left(self) -> set[str]:
        return {record.id for record in self.store.list(limit=10_000)[0]}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_what_ended_long_ago_goes_with_its_files_and_the_log_says_so(
    shelf: Shelf, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = shelf.job(status)
    shelf.now += 9 * DAY
    shelf.round()
    assert shelf.left() == {old}
    shelf.now += DAY
    fresh = shelf.job(status)
    with caplog.at_level(logging.INFO):
        shelf.round()
    assert shelf.left() == {fresh}
    assert (shelf.files(old).root.exists(), shelf.files(fresh).root.exists()) == (False, True)
    assert (old in caplog.text, "SMARTFRZ_KEEP_DAYS" in caplog.text) == (True, True)
    assert shelf.store.deleted() == []


def test_by_default_nothing_goes(tmp_path: Path) -> None:
    assert Settings().keep_days == 0.0
    shelf = Shelf(tmp_path, keep_days=0.0)
    job = shelf.job()
    shelf.now += 10_000 * DAY
    shelf.round()
    assert shelf.left() == {job}


@pytest.mark.parametrize("status", ["queued", "starting", "paused"])
def test_what_has_not_ended_stays_however_old(shelf: Shelf, status: str) -> None:
    job = shelf.job(status)
    shelf.now += 1000 * DAY
    shelf.round()
    assert shelf.left() == {job}


def test_age_counts_from_the_end(shelf: Shelf) -> None:
    job = shelf.job("starting")
    shelf.now += 100 * DAY
    shelf.store.update(job, partial(state.finish, fence=1, status="succeeded"))
    shelf.round()
    assert shelf.left() == {job}


@pytest.mark.parametrize("status", ["queued", "starting", "paused"])
def test_the_start_of_a_job_stays_until_that_one_has_ended(shelf: Shelf, status: str) -> None:
    start = shelf.job()
    user, other = shelf.job(status, start), shelf.job()
    shelf.now += 20 * DAY
    shelf.round()
    assert shelf.left() == {start, user}, "one that is kept holds up no other"
    assert other not in shelf.left()
    shelf.store.update(user, state.cancel)
    if status == "starting":
        shelf.store.update(user, partial(state.finish, fence=1, status="cancelled"))
    shelf.round()
    assert shelf.left() == {user}


def test_a_record_that_cannot_be_read_stays_and_holds_up_no_other(shelf: Shelf) -> None:
    bad, good = shelf.job(), shelf.job()
    shelf.store._records[bad] = "{"
    shelf.now += 20 * DAY
    shelf.round()
    assert bad in shelf.store._records
    assert shelf.left() == set()
    assert not shelf.files(good).root.exists()


def test_a_round_deletes_a_few_and_the_next_goes_on(shelf: Shelf) -> None:
    jobs = [shelf.job() for _ in range(DELETED + 3)]
    shelf.now += 20 * DAY
    shelf.round()
    assert shelf.left() == set(jobs[DELETED:])
    shelf.round(goes_on=False)
    assert shelf.left() == set(jobs[DELETED:]), "somebody else holds the lock"
    shelf.round()
    assert shelf.left() == set()


def test_those_that_are_kept_are_passed_over_and_looked_at_again(shelf: Shelf) -> None:
    start = shelf.job()
    users = [shelf.job("queued", start) for _ in range(2)]
    kept = [shelf.job() for _ in range(LOOKED_AT)]
    for job in kept:
        shelf.job("queued", job)
    last = shelf.job()
    shelf.now += 20 * DAY
    for _ in range(2 * (LOOKED_AT // DELETED) + 2):
        shelf.round()
    assert last not in shelf.left()
    for user in users:
        shelf.store.update(user, state.cancel)
    for _ in range(2 * (LOOKED_AT // DELETED) + 2):
        shelf.round()
    assert start not in shelf.left()
    assert set(kept) <= shelf.left()


def test_files_that_ranks_still_write_go_later(shelf: Shelf) -> None:
    job = shelf.job()
    shelf.now += 20 * DAY
    with open(shelf.files(job).lock, "w") as guardian:
        fcntl.flock(guardian, fcntl.LOCK_EX)
        shelf.round()
        assert (shelf.left(), shelf.store.deleted()) == (set(), [job])
        assert shelf.files(job).root.exists()
    for _ in range(SWEEP_ROUNDS):
        shelf.round()
    assert (shelf.files(job).root.exists(), shelf.store.deleted()) == (False, [])


def checkpoint(shelf: Shelf, job: str) -> Path:
    """A checkpoint that the job's runner did not remove."""
    path = shelf.files(job).attempt(1).checkpoints / "step-00000003"
    path.mkdir(parents=True)
    return path


def test_checkpoints_that_a_dead_runner_left_of_a_job_that_succeeded_go(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, keep_days=0.0)
    done, stranger = shelf.job(), "job_000000000000000000000"
    kept = [shelf.job(status) for status in ("failed", "cancelled", "starting", "queued", "paused")]
    unreadable = shelf.job()
    shelf.store._records[unreadable] = "{"
    left = {job: checkpoint(shelf, job) for job in (done, stranger, unreadable, *kept)}
    artifact = shelf.files(done).attempt(1).weights
    artifact.parent.mkdir()
    artifact.touch()
    shelf.round()
    assert [job for job, path in left.items() if not path.parent.exists()] == [done]
    assert artifact.exists()


def test_checkpoints_stay_while_ranks_of_the_job_still_run(shelf: Shelf) -> None:
    job = shelf.job()
    left = checkpoint(shelf, job)
    with open(shelf.files(job).lock, "w") as guardian:
        fcntl.flock(guardian, fcntl.LOCK_EX)
        shelf.round()
        assert left.exists()
    for _ in range(SWEEP_ROUNDS):
        shelf.round()
    assert not left.exists()


def test_checkpoints_go_a_few_at_a_time_and_where_none_are_left_the_store_is_not_asked(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [checkpoint(shelf, shelf.job()) for _ in range(DELETED + 3)]
    for _ in range(LOOKED_AT):
        shelf.job()
    last = checkpoint(shelf, shelf.job())
    shelf.round(goes_on=False)
    assert all(path.exists() for path in left), "somebody else holds the lock"
    shelf.round()
    assert [path.exists() for path in left] == [False] * DELETED + [True] * 3
    shelf.round()
    assert not any(path.exists() for path in left)
    assert last.exists(), "so many folders are looked into in one round"
    shelf.round()
    assert not last.exists()
    monkeypatch.setattr(shelf.store, "get", lambda _: pytest.fail("asked for nothing"))
    for _ in range(2 * SWEEP_ROUNDS):
        shelf.round()


def test_the_reaper_does_it_but_not_by_a_clock_that_has_just_jumped(shelf: Shelf) -> None:
    ticked = 0.0
    reaper = Reaper(shelf.store, MemoryWakeUp(), shelf.settings, monotonic=lambda: ticked)
    job = shelf.job()
    for _ in range(12):
        reaper.tick()
        shelf.now, ticked = shelf.now + 10.0, ticked + 10.0
    shelf.now += 3650 * DAY
    reaper.tick()
    shelf.now -= 3650 * DAY
    assert shelf.left() == {job}
    for _ in range(12):
        shelf.now, ticked = shelf.now + 10.0, ticked + 10.0
        reaper.tick()
    assert shelf.left() == {job}
    shelf.now += 10 * DAY
    for _ in range(12):
        shelf.now, ticked = shelf.now + 10.0, ticked + 10.0
        reaper.tick()
    assert shelf.left() == set()
