"""The API on the in-memory twins, over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.auth import Keys
from api.ports import MemoryWindowReader
from api.settings import ApiSettings
from workers.jobs import state
from workers.jobs.layout import AttemptFiles, JobFiles
from workers.jobs.memory import MemoryJobStore, MemoryWakeUp
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.record import JobRecord, Progress

KEY = "test-key-0123456789"


@dataclass
class World:
    """The app, its twins, and a client with the key."""

    settings: ApiSettings
    store: MemoryJobStore = field(default_factory=MemoryJobStore)
    windows: MemoryWindowReader = field(default_factory=MemoryWindowReader)
    wakeup: MemoryWakeUp = field(default_factory=MemoryWakeUp)
    app: FastAPI = field(init=False)
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app(
            self.settings,
            store=AsyncMemoryJobStore(self.store),
            windows=self.windows,
            wakeup=self.wakeup,
            keys=Keys.of(KEY),
        )
        self.client = self.connect(Authorization=f"Bearer {KEY}")

    def connect(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test", headers=headers)

    async def submit(self, **fields: Any) -> str:
        answer = await self.client.post("/v1/jobs", json=spec(**fields))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def claim(self, job_id: str) -> int:
        """A worker takes the job; returns its fence."""
        return self.store.update(job_id, lambda r, now: state.claim(r, now, owner="w1", lease_seconds=60)).fence

    def run(self, job_id: str, step: int = 1) -> int:
        fence = self.claim(job_id)
        progress = Progress(step=step, total_steps=10, ratio=step / 10, phase="training")
        self.store.update(job_id, lambda r, now: state.report_progress(r, now, fence=fence, progress=progress))
        return fence

    def finish(self, job_id: str, status: Any = "succeeded") -> JobRecord:
        fence = self.store.get(job_id).fence
        return self.store.update(job_id, lambda r, now: state.finish(r, now, fence=fence, status=status))

    def attempt(self, job_id: str, fence: int = 1) -> AttemptFiles:
        """The folder of an attempt, made."""
        files = JobFiles(self.settings.home, job_id).attempt(fence)
        files.logs.mkdir(parents=True)
        return files


def spec(**fields: Any) -> dict[str, Any]:
    return {"name": "demo", "model": {"name": "minilm-l6"}, "data": {"name": "20newsgroups"}, **fields}


@pytest.fixture
def make_spec() -> Callable[..., dict[str, Any]]:
    return spec


@pytest.fixture
def make_world(tmp_path: Path, stand_in_packages: Path) -> Callable[..., World]:
    def make(**settings: Any) -> World:
        own = {"home": tmp_path / "home", "packages_dir": stand_in_packages, "wait_poll_seconds": 0.01}
        return World(ApiSettings(**{**own, **settings}))

    return make


@pytest.fixture
async def world(make_world: Callable[..., World]) -> AsyncIterator[World]:
    made = make_world()
    async with made.app.router.lifespan_context(made.app), made.client:
        yield made
