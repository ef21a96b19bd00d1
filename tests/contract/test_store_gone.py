"""A store that goes away: StoreUnavailable, nothing half-written, and work goes on when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import redis

from tests.contract.test_job_store import record
from workers.embedded import EmbeddedServer
from workers.jobs import state
from workers.jobs.errors import StoreUnavailable
from workers.jobs.memory import MemoryJobStore
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.ports import AsyncJobStore, JobStore
from workers.jobs.record import Event
from workers.redis_store import AsyncRedisJobStore, RedisJobStore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "store", durable=True) as running:
        yield running


def kill(server: EmbeddedServer) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


def check_gone(store: JobStore, job_id: str) -> None:
    for call in (
        store.ping,
        store.now,
        store.counts,
        partial(store.get, job_id),
        partial(store.create, record(), idempotency=("key", "hash")),
        partial(store.update, job_id, state.cancel),
        partial(store.append_event, job_id, Event(type="x", at=1.0)),
        partial(store.list, limit=1),
        partial(store.delete, job_id),
    ):
        with pytest.raises(StoreUnavailable):
            call()


def check_back(store: JobStore, job_id: str) -> None:
    assert store.get(job_id).status == "queued"
    assert store.counts() == {"queued": 1}
    assert [e.type for e in store.events(job_id)] == ["job.created"]
    assert store.create(record(), idempotency=("key", "hash"))[1]


def test_memory() -> None:
    store = MemoryJobStore()
    job = store.create(record())[0]
    store.available = False
    check_gone(store, job.id)
    store.available = True
    check_back(store, job.id)


def test_redis_killed_by_9_and_started_again(server: EmbeddedServer) -> None:
    store = RedisJobStore(server.url, "p:")
    job = store.create(record())[0]
    kill(server)
    check_gone(store, job.id)
    server.revive()
    check_back(store, job.id)
    store.close()


async def test_async_stores(server: EmbeddedServer) -> None:
    memory = MemoryJobStore()
    stores: list[AsyncJobStore] = [AsyncMemoryJobStore(memory), AsyncRedisJobStore(server.url, "p:")]
    jobs = [(await store.create(record()))[0] for store in stores]
    kill(server)
    memory.available = False
    for store, job in zip(stores, jobs, strict=True):
        with pytest.raises(StoreUnavailable):
            await store.get(job.id)
        with pytest.raises(StoreUnavailable):
            await store.create(record())
        with pytest.raises(StoreUnavailable):
            await store.wait_events({job.id: "0"}, 100)
    server.revive()
    memory.available = True
    for store, job in zip(stores, jobs, strict=True):
        assert await store.get(job.id) == job
        assert await store.counts() == {"queued": 1}
        await store.close()


def test_a_full_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store", durable=False, maxmemory_bytes=4 * 2**20) as server:
        store = RedisJobStore(server.url, "p:")
        job = store.create(record())[0]

        def fill() -> None:
            for _ in range(200):
                store.append_event(job.id, Event(type="log", at=1.0, data={"text": "x" * 100_000}))

        with pytest.raises(StoreUnavailable, match="maxmemory"):
            fill()
        created = [job]

        def create_more() -> None:
            while len(created) < 5000:
                created.append(store.create(record(), idempotency=(f"key{len(created)}", "hash"))[0])

        with pytest.raises(StoreUnavailable, match="maxmemory"):
            create_more()
        assert store.counts() == {"queued": len(created)}
        assert [r.id for r in store.list(limit=5000)[0]] == sorted((r.id for r in created), reverse=True)
        assert all(store.events(r.id, limit=1)[0].type == "job.created" for r in created)
        store.close()


def test_a_store_that_runs_a_script_for_too_long(server: EmbeddedServer) -> None:
    """It answers BUSY to everything but SCRIPT KILL, to commands sent in one go too."""
    store, other = RedisJobStore(server.url, "p:"), redis.Redis.from_url(server.url)
    job, late = store.create(record())[0], Event(type="late", at=1.0)
    other.config_set("busy-reply-threshold", 1)

    def spin() -> None:
        with suppress(redis.ResponseError):  # it is killed
            other.eval("while true do end", 0)

    def until_refused() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            store.ping()

    script = Thread(target=spin)
    script.start()
    try:
        append = partial(store.append_event, job.id, late)
        for call in (until_refused, partial(store.get, job.id), store.counts, append):
            with pytest.raises(StoreUnavailable, match="BUSY"):
                call()
    finally:
        redis.Redis.from_url(server.url).script_kill()
        script.join()
    assert store.get(job.id) == job
    store.close()


def test_a_wrong_password_is_no_crash(server: EmbeddedServer) -> None:
    store = RedisJobStore(server.url.replace("unix://:", "unix://:wrong"), "p:")
    with pytest.raises(StoreUnavailable):
        store.ping()
    store.close()
