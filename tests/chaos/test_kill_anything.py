"""Kill -9 of every process of a running job in turn, and of the store: the job succeeds, one run at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from worker_process import WorkerProcess, submit, until

from workers import proctree
from workers.celery_app import CeleryWakeUp, make_celery
from workers.embedded import EmbeddedServer
from workers.jobs.errors import StoreUnavailable
from workers.jobs.layout import JobFiles
from workers.jobs.spec import JobSpec
from workers.reaper import Reaper
from workers.redis_store import RedisJobStore
from workers.settings import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

SPEC = JobSpec.model_validate(
    {
        "name": "chaos",
        "model": {"name": "resnet-small"},
        "data": {"name": "mnist5k"},
        "resources": {"processes_per_worker": 2, "device": "cpu"},
        "metadata": {"steps": "200"},
    }
)


class Scene:
    """A store that can be killed, one worker, a reaper that the test ticks."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sfz-chaos-"))
        self.server = EmbeddedServer(self.folder, durable=True, maxmemory_bytes=None)
        self.server.start()
        self.settings = settings.model_copy(
            update={
                "redis_url": self.server.url,
                "window_redis_url": None,
                "lease_seconds": 2.0,
                "kill_grace_seconds": 0.5,
                "wake_seconds": 1.0,
                "rank_module": "standin_rank",
            }
        )
        self.store = RedisJobStore(self.server.url, self.settings.key_prefix)
        self.app = make_celery(self.settings)
        self.reaper = Reaper(self.store, CeleryWakeUp(self.app), self.settings)
        self.worker = WorkerProcess(self.settings, "chaos", folder / "worker.log")
        self.job = submit(self.settings, SPEC)
        self.root = JobFiles(self.settings.home.resolve(), self.job).root

    def close(self) -> None:
        self.worker.stop()
        self.app.close()
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.root / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def running(self) -> bool:
        return len(self.lines("journal-0.jsonl")) > 5 and len(self.lines("journal-1.jsonl")) > 5

    def finished(self) -> bool:
        try:
            self.reaper.tick()
            return self.store.get(self.job).terminal
        except StoreUnavailable:
            return False

    def check(self, attempts: int) -> None:
        record = self.store.get(self.job)
        assert (record.status, record.attempt) == ("succeeded", attempts), record.status_message
        spans: dict[int, list[float]] = {}
        for rank in (0, 1):
            for line in self.lines(f"journal-{rank}.jsonl"):
                spans.setdefault(line["fence"], []).append(line["at"])
        ordered = [spans[fence] for fence in sorted(spans)]
        assert len(ordered) == attempts
        for earlier, later in pairwise(ordered):
            assert max(earlier) < min(later), "two attempts ran at once"


@pytest.fixture
def scene(settings: Settings, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(settings, tmp_path)
    yield scene
    scene.close()


@pytest.mark.parametrize("victim", ["pool child", "guardian", "torchrun", "rank 0", "rank 1"])
def test_kill_9_of_one_process(scene: Scene, victim: str) -> None:
    until(scene.running, 60, lambda: scene.worker.output)
    ranks = {f"rank {line['rank']}": line["pid"] for line in scene.lines("pids.jsonl")}
    child, guardian, torchrun = (pid for pid in scene.worker.tree() if pid not in ranks.values())
    named = {"pool child": child, "guardian": guardian, "torchrun": torchrun} | ranks
    os.kill(named[victim], signal.SIGKILL)
    until(lambda: not any(proctree.alive(pid) for pid in ranks.values()), 30)
    until(scene.finished, 90, lambda: scene.worker.output)
    scene.check(attempts=2)


def test_kill_9_of_the_store_does_not_disturb_the_run(scene: Scene) -> None:
    until(scene.running, 60, lambda: scene.worker.output)
    assert scene.server.process is not None
    scene.server.process.kill()
    scene.server.process.wait()
    scene.server.revive()
    until(scene.finished, 60, lambda: scene.worker.output)
    scene.check(attempts=1)
    following = submit(scene.settings, SPEC.model_copy(update={"metadata": {"steps": "2"}}))
    until(lambda: scene.store.get(following).status == "succeeded", 60, lambda: scene.worker.output)
