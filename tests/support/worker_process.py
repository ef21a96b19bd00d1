"""A real Celery worker as a child process, and what the tests ask of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers import proctree
from workers.celery_app import CeleryWakeUp, make_celery, worker_command
from workers.jobs.record import JobRecord, new_job_id
from workers.jobs.spec import JobSpec
from workers.redis_store import RedisJobStore
from workers.settings import Settings

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def until(condition: Callable[[], Any], seconds: float = 30.0, say: Callable[[], object] = lambda: "") -> None:
    """Poll until it holds, or fail with what ``say`` tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {say()}"
        time.sleep(0.02)


def submit(settings: Settings, spec: JobSpec, *, wake: bool = True) -> str:
    """Create the record and send the wake-up, as the API does; without ``wake`` the message is lost."""
    assert settings.redis_url is not None
    store = RedisJobStore(settings.redis_url, settings.key_prefix)
    now = store.now()
    record = JobRecord(id=new_job_id(now), spec=spec, created_at=now, queued_at=now, updated_at=now)
    store.create(record)
    if wake:
        app = make_celery(settings)
        CeleryWakeUp(app).wake()
        app.close()
    return record.id


class WorkerProcess:
    """``celery -A workers.celery_app worker`` with the environment that the settings mean."""

    def __init__(self, settings: Settings, node: str, log: Path) -> None:
        environ = {
            f"SMARTFRZ_{name.upper()}": str(value)
            for name, value in settings.model_dump(exclude_none=True).items()
            if not name.startswith("redis_") or name == "redis_url"
        }
        environ["PYTHONPATH"] = f"{SUPPORT}:{ROOT}"
        self.log = log
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                worker_command(node),
                env=dict(os.environ) | environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def tree(self) -> list[int]:
        """Every process below the main one: pool child, guardian, torchrun, ranks."""
        return proctree.descendants(self.process.pid)

    def kill(self) -> None:
        """``kill -9`` of the main process alone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Warm shutdown: drain and leave."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
