"""One reader waits for the events of many jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StoreUrl
from tests.contract.test_job_store import record
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.ports import AsyncJobStore
from workers.jobs.record import Event
from workers.redis_store import AsyncRedisJobStore


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AsyncJobStore]:
    made: AsyncJobStore = (
        AsyncMemoryJobStore()
        if request.param == "memory"
        else AsyncRedisJobStore(*request.getfixturevalue("store_url"))
    )
    yield made
    await made.close()


async def test_what_is_there_comes_at_once(store: AsyncJobStore) -> None:
    a, b = (await store.create(record()))[0], (await store.create(record()))[0]
    last = (await store.events(b.id))[-1].id
    found = await store.wait_events({a.id: "0", b.id: last}, 4000)
    assert {job: [e.type for e in events] for job, events in found.items()} == {a.id: ["job.created"]}


async def test_news_end_the_wait(store: AsyncJobStore) -> None:
    job = (await store.create(record()))[0]
    last = (await store.events(job.id))[-1].id
    waiting = asyncio.create_task(store.wait_events({job.id: last, "job_none": "0"}, 4000))
    await asyncio.sleep(0)
    written = await store.append_event(job.id, Event(type="log", at=1.0, data={"n": 1}))
    found = await asyncio.wait_for(waiting, 3.9)
    assert found == {job.id: [Event(id=written, type="log", at=1.0, data={"n": 1})]}


async def test_nothing_new_ends_after_the_time(store: AsyncJobStore) -> None:
    job = (await store.create(record()))[0]
    last = (await store.events(job.id))[-1].id
    start = time.monotonic()
    assert await store.wait_events({job.id: last}, 50) == {}
    assert await store.wait_events({job.id: last}, 0) == {}
    assert await store.wait_events({}, 50) == {}
    assert 0.09 < time.monotonic() - start < 4  # far below the client's own limit on a reply


async def test_hundreds_of_calls_beside_the_wait_are_all_answered(store: AsyncJobStore) -> None:
    job = (await store.create(record()))[0]
    last = (await store.events(job.id))[-1].id
    waiting = asyncio.create_task(store.wait_events({job.id: last}, 4000))
    found = await asyncio.gather(*(store.get(job.id) for _ in range(300)))
    assert {one.id for one in found} == {job.id}
    await store.append_event(job.id, Event(type="log", at=1.0))
    assert list(await asyncio.wait_for(waiting, 3.9)) == [job.id]


async def test_a_cancelled_wait_leaves_the_store_usable(store: AsyncJobStore, store_url: StoreUrl) -> None:
    job = (await store.create(record()))[0]
    last = (await store.events(job.id))[-1].id
    waiting = asyncio.create_task(store.wait_events({job.id: last}, 4000))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await store.get(job.id)).id == job.id
