"""The real API on the in-memory twins, served on a loopback port, and the command line against it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import Result
from typer.testing import CliRunner

from api.app import create_app
from api.auth import Keys
from api.ports import MemoryWindowReader
from api.settings import ApiSettings
from client.api import Client
from client.cli.app import app as cli_app
from client.requests import RetryPolicy
from workers.jobs import state
from workers.jobs.layout import AttemptFiles, JobFiles
from workers.jobs.memory import MemoryJobStore, MemoryWakeUp
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.record import Event, JobRecord, Progress

KEY = "test-key-0123456789"
SPEC = {"name": "demo", "model": {"name": "minilm-l6"}, "data": {"name": "20newsgroups"}}


@dataclass
class Service:
    """A running API, and what a worker would do to its jobs."""

    url: str
    home: Path
    store: MemoryJobStore
    spec: dict[str, Any] = field(default_factory=lambda: dict(SPEC))

    def client(self, **policy: Any) -> Client:
        return Client(self.url, KEY, policy=RetryPolicy(**{"backoff_seconds": 0.01, **policy}))

    def submitted(self) -> str:
        """Id of the job that a command under way submits."""
        jobs: list[Any] = []
        with self.client() as client:
            for _ in range(2000):
                if jobs := client.list()["data"]:
                    break
        return str(jobs[0]["id"])

    def start(self, job_id: str) -> int:
        """A worker claims the job and reports a first step; returns its fence."""
        record = self.store.update(job_id, lambda r, now: state.claim(r, now, owner="w1", lease_seconds=60))
        self.progress(job_id, step=1)
        return record.fence

    def progress(self, job_id: str, step: int) -> None:
        fence = self.store.get(job_id).fence
        progress = Progress(
            step=step,
            total_steps=10,
            ratio=step / 10,
            phase="training",
            loss=2.5,
            units=4,
            frozen_units=1,
            eta_seconds=90,
        )
        self.store.update(job_id, lambda r, now: state.report_progress(r, now, fence=fence, progress=progress))

    def event(self, job_id: str, kind: str, **data: Any) -> str:
        return self.store.append_event(job_id, Event(type=kind, at=time.time(), data=data))

    def finish(self, job_id: str, status: Any = "succeeded", **fields: Any) -> JobRecord:
        fence = self.store.get(job_id).fence
        return self.store.update(job_id, lambda r, now: state.finish(r, now, fence=fence, status=status, **fields))

    def attempt(self, job_id: str, fence: int = 1) -> AttemptFiles:
        """The folder of an attempt, made."""
        files = JobFiles(self.home, job_id).attempt(fence)
        files.logs.mkdir(parents=True)
        files.artifacts.mkdir()
        return files


@pytest.fixture
def service(tmp_path: Path, stand_in_packages: Path) -> Iterator[Service]:
    home, store = tmp_path / "home", MemoryJobStore()
    settings = ApiSettings(home=home, packages_dir=stand_in_packages, wait_poll_seconds=0.01, retry_after_seconds=1)
    app = create_app(
        settings,
        store=AsyncMemoryJobStore(store),
        windows=MemoryWindowReader(),
        wakeup=MemoryWakeUp(),
        keys=Keys.of(KEY),
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the server ended at once"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Service(f"http://127.0.0.1:{port}", home, store)
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def smartfrz(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run the command line against the service."""
    monkeypatch.setenv("SMARTFRZ_URL", service.url)
    monkeypatch.setenv("SMARTFRZ_API_KEY", KEY)
    monkeypatch.setenv("SMARTFRZ_HOME", str(tmp_path / "no-home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("SMARTFRZ_PACKAGES_DIR", raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli_app, arguments, input=stdin)

    return run


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Run functions in threads, and hand on what they raise."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(function: Callable[[], Any]) -> threading.Thread:
        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert not errors
