"""Runs the async stores in an event loop of their own, behind the sync port, so that one suite serves both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.conftest import StoreUrl
from workers._redis import Driver
from workers.jobs.memory import MemoryJobStore
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.ports import JobStore
from workers.redis_store import AsyncRedisJobStore, RedisJobStore


class Blocking:
    """An async store as a sync one: each call runs in the loop's thread and is waited for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.store = make()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return lambda *a, **k: asyncio.run_coroutine_threadsafe(method(*a, **k), self._loop).result(30)

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def spoil(request: pytest.FixtureRequest, store: JobStore) -> Callable[[str, str], None]:
    """``spoil(job_id, text)`` puts a text in place of a record, past the store's own checks."""

    def put(job_id: str, text: str) -> None:
        inner = store.store if isinstance(store, Blocking) else store
        twin = inner.sync if isinstance(inner, AsyncMemoryJobStore) else inner
        if isinstance(twin, MemoryJobStore):
            twin._records[job_id] = text
            return
        place: StoreUrl = request.getfixturevalue("store_url")
        driver = Driver(place.url)
        driver.client.hset(f"{place.prefix}job:{job_id}", "json", text)
        driver.close()

    return put


@pytest.fixture(params=["memory", "redis", "async-memory", "async-redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    kind: str = request.param
    place: StoreUrl | None = request.getfixturevalue("store_url") if "redis" in kind else None
    if not kind.startswith("async"):
        sync: JobStore = MemoryJobStore() if place is None else RedisJobStore(*place)
        yield sync
        sync.close()
        return
    blocking = Blocking(AsyncMemoryJobStore if place is None else lambda: AsyncRedisJobStore(*place))
    yield cast(JobStore, blocking)
    blocking.end()
