from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.ballast import fill
from tests.support.small_disk import small_disk
from workers.jobs import state
from workers.jobs.memory import MemoryJobStore
from workers.jobs.record import Command, JobRecord, Progress
from workers.jobs.spec import JobSpec
from workers.training.reporter import Reporter

JOB = "job_000000000010000000000"


@pytest.fixture
def store() -> MemoryJobStore:
    """A store with one job, claimed with fence 1."""
    return with_job(MemoryJobStore())


def with_job(store: MemoryJobStore) -> MemoryJobStore:
    spec = JobSpec.model_validate({"name": "t", "model": {"name": "resnet-small"}, "data": {"name": "mnist5k"}})
    store.create(JobRecord(id=JOB, spec=spec, created_at=1.0, queued_at=1.0, updated_at=1.0))
    claim(store)
    return store


def claim(store: MemoryJobStore) -> None:
    store.update(JOB, lambda r, now: state.claim(r, now, owner="w", lease_seconds=60))


@pytest.fixture
def reporter(store: MemoryJobStore, tmp_path: Path) -> Iterator[Reporter]:
    made = Reporter(store, job_id=JOB, fence=1, metrics=tmp_path / "metrics.jsonl", every_seconds=0.01, buffer=5)
    yield made
    made.close(timeout=1.0)


def kinds(store: MemoryJobStore) -> list[str]:
    return [event.type for event in store.events(JOB) if not event.type.startswith("job.")]


def test_progress_turns_the_job_to_running(store: MemoryJobStore, reporter: Reporter) -> None:
    reporter.progress(Progress(step=3, total_steps=9, loss=0.5))
    assert reporter.flush(5)
    record = store.get(JOB)
    assert (record.status, record.progress.step) == ("running", 3)


def test_everything_arrives_in_order(store: MemoryJobStore, reporter: Reporter) -> None:
    reporter.event("training.started", total_steps=9)
    reporter.decision({"step": 4, "frozen": ["a"]})
    reporter.event("unit.frozen", unit="a")
    reporter.freeze_status({"step": 4})
    assert reporter.flush(5)
    assert kinds(store) == ["training.started", "unit.frozen"]
    assert [d["step"] for d in store.decisions(JOB)] == [4]
    assert (store.get_freeze(JOB) or {})["step"] == 4
    reporter.supersede(2)
    assert reporter.flush(5)
    assert [d["superseded"] for d in store.decisions(JOB)] == [True]


def test_a_store_that_is_away_holds_nothing_up_and_loses_only_what_does_not_fit(
    store: MemoryJobStore, reporter: Reporter
) -> None:
    store.available = False
    for n in range(8):
        reporter.event(f"e{n}")
    reporter.progress(Progress(step=1))
    reporter.progress(Progress(step=2))
    assert not reporter.flush(0.1)
    assert not reporter.stale.is_set()
    store.available = True
    assert reporter.flush(5)
    assert kinds(store) == ["e3", "e4", "e5", "e6", "e7"]
    assert reporter.dropped == 3
    assert store.get(JOB).progress.step == 2


class Unreadable(MemoryJobStore):
    """Its commands do not validate, for as long as ``broken`` is set."""

    broken = True
    asked = 0

    def commands(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Command]:
        self.asked += 1
        if self.broken:
            Command.model_validate({"seq": "none"})
        return super().commands(job_id, after=after, limit=limit)


def test_commands_that_cannot_be_read_do_not_end_the_reports(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Unreadable()
    with_job(store)
    reporter = Reporter(store, job_id=JOB, fence=1, metrics=tmp_path / "metrics.jsonl", every_seconds=0.01)
    for n in range(3):
        reporter.event(f"e{n}")
        reporter.await_commands(5)
        assert reporter.flush(5)
    assert kinds(store) == ["e0", "e1", "e2"]
    assert store.asked > 1
    assert caplog.text.count("cannot be asked for commands") == 1
    store.broken = False
    store.add_command(JOB, "thaw", None)
    reporter.event("last")
    reporter.close(timeout=5.0)  # the thread ends behind a whole round
    assert [command.action for command in reporter.commands(0)] == ["thaw"]


@pytest.mark.parametrize("what", ["progress", "event", "decision", "freeze_status"])
def test_a_refused_fence_sets_stale(store: MemoryJobStore, reporter: Reporter, what: str) -> None:
    store.update(JOB, lambda r, now: state.lose(r, now, fence=1, message="gone"))
    claim(store)
    report = {
        "progress": lambda: reporter.progress(Progress(step=1)),
        "event": lambda: reporter.event("x"),
        "decision": lambda: reporter.decision({"step": 1}),
        "freeze_status": lambda: reporter.freeze_status({"step": 1}),
    }
    report[what]()
    assert reporter.stale.wait(5)
    assert kinds(store) == []
    assert store.get_freeze(JOB) is None


def test_metrics_are_lines_of_json_even_without_a_store(tmp_path: Path) -> None:
    reporter = Reporter(None, job_id=JOB, fence=1, metrics=tmp_path / "a" / "metrics.jsonl")
    reporter.event("nobody listens")
    reporter.metric(1, loss=0.5, accuracy=None)
    reporter.metric(2, accuracy=0.25)
    reporter.close()
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "at"} for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "accuracy": 0.25},
    ]


def test_lines_that_a_full_disk_does_not_take_end_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk") as disk:
        reporter = Reporter(None, job_id=JOB, fence=1, metrics=disk / "metrics.jsonl")
        fill(disk / "ballast")
        reporter.metric(1, loss=0.5)
        assert "metrics line lost" in caplog.text
        reporter.close()
        assert "metrics lines lost at the end" in caplog.text
