"""Kill -9 of a real worker that trains a real network on real images with two DDP ranks: the job goes on from its
checkpoint with another worker, and one run at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_process import WorkerProcess, submit, until

from workers import proctree
from workers.celery_app import CeleryWakeUp, make_celery
from workers.jobs.layout import AttemptFiles, JobFiles
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.redis_store import RedisJobStore
from workers.settings import Settings

SPEC = JobSpec.model_validate(
    {
        "name": "digits",
        "model": {"name": "resnet-small", "options": {"width": 4, "depth": 1}},
        "data": {"name": "mnist5k", "train_size": 640, "test_size": 100},
        "training": {
            "epochs": 5,
            "batch_size": 8,
            "checkpoint_every_steps": 10,
            "optimizer": {"name": "adamw", "lr": 0.01},
        },
        "freeze": {"policy": "static", "options": {"first": 1}},
        "resources": {"processes_per_worker": 2, "device": "cpu"},
    }
)


def times(attempt: AttemptFiles) -> list[float]:
    return [json.loads(line)["at"] for line in attempt.metrics.read_text().splitlines()]


@pytest.fixture
def workers(settings: Settings, tmp_path: Path, need: Callable[[str], Path]) -> Iterator[list[WorkerProcess]]:
    need("mnist5k")
    started: list[WorkerProcess] = []
    yield started
    for worker in started:
        worker.stop()


@pytest.mark.timeout(240)
def test_a_training_job_survives_kill_9_of_its_worker(
    settings: Settings, tmp_path: Path, workers: list[WorkerProcess]
) -> None:
    assert settings.redis_url is not None
    store = RedisJobStore(settings.redis_url, settings.key_prefix)
    app = make_celery(settings)
    reaper = Reaper(store, CeleryWakeUp(app), settings)
    reaper.tick()
    workers.append(WorkerProcess(settings, "real-one", tmp_path / "one.log"))
    job_id = submit(settings, SPEC)

    def steps(event: str) -> list[int]:
        return [int(found.data["step"]) for found in store.events(job_id, limit=1000) if found.type == event]

    def ranks_log() -> str:
        logs = sorted(JobFiles(settings.home.resolve(), job_id).root.glob("attempt-*/logs/*.log"))
        return "\n".join(path.read_text()[-3000:] for path in logs) + workers[-1].output

    until(lambda: steps("checkpoint.saved") or store.get(job_id).terminal, 90, ranks_log)
    tree = workers[0].tree()
    assert store.get(job_id).status == "running", ranks_log()
    workers[0].kill()
    until(lambda: not any(proctree.alive(pid) for pid in tree), 20)
    saved = max(steps("checkpoint.saved"))

    workers.append(WorkerProcess(settings, "real-two", tmp_path / "two.log"))

    def finished() -> bool:
        reaper.tick()
        return store.get(job_id).terminal

    until(finished, 120, ranks_log)
    app.close()
    record = store.get(job_id)
    assert (record.status, record.attempt) == ("succeeded", 2), ranks_log()
    assert (record.progress.step, record.progress.ratio) == (200, 1.0)
    assert steps("training.started") == [0, saved], "the second attempt began where the last checkpoint was"
    first, second = JobFiles(settings.home.resolve(), job_id).attempts()
    assert max(times(first)) < min(times(second)), "two attempts trained at once"
    assert record.summary["accuracy"] > 0.0
