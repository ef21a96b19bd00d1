"""Kill -9 of a real Celery worker in mid-job, over a real store, with stand-in ranks: no process stays, the job goes on
with another worker, and at no time do two attempts run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_process import WorkerProcess, submit, until

from workers import proctree
from workers.celery_app import CeleryWakeUp, make_celery
from workers.jobs.layout import JobFiles
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.redis_store import RedisJobStore
from workers.settings import Settings

Start = Callable[[str], WorkerProcess]


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"lease_seconds": 2.0, "rank_module": "standin_rank", "kill_grace_seconds": 0.5, "wake_seconds": 1.0}
    )


@pytest.fixture
def start(quick: Settings, tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def one(node: str) -> WorkerProcess:
        started.append(WorkerProcess(quick, node, tmp_path / f"{node}.log"))
        return started[-1]

    yield one
    for worker in started:
        worker.stop()


def job(**metadata: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "kill",
            "model": {"name": "resnet-small"},
            "data": {"name": "mnist5k"},
            "resources": {"processes_per_worker": 2, "device": "cpu"},
            "metadata": metadata,
        }
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_kill_9_of_the_worker_leaves_nothing_and_the_job_goes_on_elsewhere(
    quick: Settings, start: Start, tmp_path: Path
) -> None:
    assert quick.redis_url is not None
    store = RedisJobStore(quick.redis_url, quick.key_prefix)
    app = make_celery(quick)
    reaper = Reaper(store, CeleryWakeUp(app), quick)
    reaper.tick()  # its waiting time begins
    first = start("one")
    job_id = submit(quick, job(steps="200"))
    root = JobFiles(quick.home.resolve(), job_id).root
    until(lambda: len(lines(root / "journal-1.jsonl")) > 10, 60, lambda: first.output)
    tree = first.tree()
    assert len(tree) >= 5, "pool child, guardian, torchrun and two ranks"

    first.kill()
    until(lambda: not any(proctree.alive(pid) for pid in tree), 20)
    assert store.get(job_id).status in ("starting", "running")

    second = start("two")

    def finished() -> bool:
        reaper.tick()
        return store.get(job_id).terminal

    until(finished, 60, lambda: second.output)
    app.close()
    record = store.get(job_id)
    assert (record.status, record.attempt, record.fence) == ("succeeded", 2, 2), record.status_message
    assert [event.type for event in store.events(job_id) if event.type == "job.recovered"] == ["job.recovered"]
    for rank in (0, 1):
        journal = lines(root / f"journal-{rank}.jsonl")
        assert [line["step"] > 0 for line in journal if line["what"] == "start"] == [False, True]
    spans: dict[int, list[float]] = {}
    for rank in (0, 1):
        for line in lines(root / f"journal-{rank}.jsonl"):
            spans.setdefault(line["fence"], []).append(line["at"])
    assert sorted(spans) == [1, 2]
    assert max(spans[1]) < min(spans[2]), "two attempts ran at once"


def test_a_job_whose_message_was_lost_is_found_and_a_warm_shutdown_hands_it_back(quick: Settings, start: Start) -> None:
    assert quick.redis_url is not None
    store = RedisJobStore(quick.redis_url, quick.key_prefix)
    first = start("three")
    until(store.workers, 60, lambda: first.output)
    info = store.workers()[0]
    assert (info.state, info.devices, info.max_processes) == ("idle", ["cpu"], 2)
    job_id = submit(quick, job(steps="100"), wake=False)
    root = JobFiles(quick.home.resolve(), job_id).root
    until(lambda: len(lines(root / "journal-1.jsonl")) > 5, 60, lambda: first.output)
    assert store.workers()[0].job_id == job_id
    assert first.stop() == 0
    assert "smartfrz.work[" not in first.output, "wake-ups, two a minute for ever, are not logged one by one"
    assert list(store.workers()) == []
    record = store.get(job_id)
    assert (record.status, record.attempt) == ("queued", 0)
    second = start("four")  # looks for work as soon as it is ready
    until(lambda: store.get(job_id).status == "succeeded", 60, lambda: second.output)
    assert store.get(job_id).attempt == 1
