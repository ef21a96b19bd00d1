"""A real Celery worker whose disk takes no writes: the queue waits unharmed, everybody can see why, and it goes on."""

from __future__ import annotations

from pathlib import Path

from worker_process import WorkerProcess, submit, until

from workers.celery_app import CeleryWakeUp, make_celery
from workers.jobs import state
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.redis_store import RedisJobStore
from workers.settings import Settings

SPEC = JobSpec.model_validate(
    {
        "name": "no-disk",
        "model": {"name": "resnet-small"},
        "data": {"name": "mnist5k"},
        "resources": {"processes_per_worker": 1, "device": "cpu"},
        "metadata": {"steps": "2"},
        "max_attempts": 1,
    }
)


def test_a_worker_without_a_disk_leaves_the_queue_as_it_is_until_the_disk_is_back(
    settings: Settings, tmp_path: Path
) -> None:
    assert settings.redis_url is not None
    quick = settings.model_copy(update={"rank_module": "standin_rank", "wake_seconds": 0.5})
    blocker = quick.home / "jobs"
    quick.home.mkdir()
    blocker.write_text("a file where the folder of all jobs should be")
    store, app = RedisJobStore(settings.redis_url, quick.key_prefix), make_celery(quick)
    reaper = Reaper(store, CeleryWakeUp(app), quick)
    jobs = [submit(quick, SPEC) for _ in range(12)]  # a message for each
    worker = WorkerProcess(quick, "no-disk", tmp_path / "worker.log")
    try:
        until(lambda: [w.state for w in store.workers()] == ["blocked"], 60, lambda: worker.output)
        trouble = f"cannot write to {blocker.resolve()}: File exists"
        assert store.workers()[0].trouble == trouble
        until(lambda: worker.output.count(f"nothing is claimed: {trouble}") > len(jobs), 60, lambda: worker.output)
        reaper.tick()
        records = [store.get(job) for job in jobs]
        assert {(record.status, record.attempt, record.fence) for record in records} == {("queued", 0, 0)}
        assert all((record.queue_reason or "").endswith(trouble) for record in records)
        for job in jobs[1:]:
            store.update(job, state.cancel)
        blocker.unlink()
        until(lambda: store.get(jobs[0]).status == "succeeded", 60, lambda: worker.output)
        until(lambda: store.workers()[0].state == "idle", 20, lambda: worker.output)
    finally:
        worker.stop()
        app.close()
        store.close()
