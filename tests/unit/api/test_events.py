"""The event stream: replay, live, end, reconnect; one reader for all; slow readers are dropped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from api.hub import Hub
from api.sse import END_SUFFIX, has_ended, split_last_event_id, stream
from workers.jobs.errors import StoreUnavailable
from workers.jobs.memory_async import AsyncMemoryJobStore
from workers.jobs.record import Event


class Counting(AsyncMemoryJobStore):
    """The twin, with a count of reads under way and a switch for failures of the wait alone."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.reading = self.most = 0
        self.waits_fail = False

    async def wait_events(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, Sequence[Event]]:
        if self.waits_fail:
            raise StoreUnavailable("switched off")
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            return await super().wait_events(cursors, min(block_ms, 50))
        finally:
            self.reading -= 1


@pytest.fixture
def store(world: Any) -> Counting:
    return Counting(world.store)


@pytest.fixture
async def hub(store: Counting) -> AsyncIterator[Hub]:
    async with Hub(store, buffer=5) as made:
        yield made


async def collect(events: AsyncIterator[Any]) -> list[tuple[str, str]]:
    """(type, id) of every event until the stream closes."""
    return [(event.event, event.id) async for event in events]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def log(world: Any, job_id: str, **data: Any) -> str:
    return str(world.store.append_event(job_id, Event(type="log", at=1.0, data=data)))


async def test_replay_then_live_then_end(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    reading = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: store.reading == 1)
    world.run(job_id)
    log(world, job_id)
    world.finish(job_id)
    seen = await asyncio.wait_for(reading, 5)
    types = ["job.created", "job.starting", "job.running", "log", "job.succeeded", "end"]
    assert [kind for kind, _ in seen] == types
    assert [i for _, i in seen[:-1]] == [event.id for event in world.store.events(job_id)]
    assert seen[-1][1] == seen[-2][1] + END_SUFFIX


async def test_the_data_is_the_entry_of_the_json_list(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    first = await anext(aiter(stream(store, hub, job_id, "0")))
    listed = (await world.client.get(f"/v1/jobs/{job_id}/events")).json()["data"][0]
    assert json.loads(first.data or "") == listed


async def test_a_reconnect_misses_nothing_and_repeats_nothing(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    world.run(job_id)
    ids = [log(world, job_id, n=n) for n in range(450)]  # more than two pages of the replay, more than the buffer
    world.finish(job_id)
    seen = await collect(stream(store, hub, job_id, ids[99]))
    assert [i for kind, i in seen if kind == "log"] == ids[100:]


async def test_all_watchers_share_one_reader(world: Any, store: Counting, hub: Hub) -> None:
    jobs = [await world.submit() for _ in range(3)]
    readings = [asyncio.create_task(collect(stream(store, hub, job_id, "0"))) for job_id in jobs * 4]
    await until(lambda: len(hub._cursors) == 3)
    for job_id in jobs:
        world.run(job_id)
        world.finish(job_id)
    for seen in await asyncio.wait_for(asyncio.gather(*readings), 10):
        assert [kind for kind, _ in seen] == ["job.created", "job.starting", "job.running", "job.succeeded", "end"]
    assert store.most == 1
    assert not hub._watchers
    assert not hub._cursors


async def test_a_watcher_that_joins_late_gets_what_the_hub_has_read_already(
    world: Any, store: Counting, hub: Hub
) -> None:
    job_id = await world.submit()
    early = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    world.run(job_id)
    await until(lambda: hub._cursors.get(job_id) == world.store.events(job_id)[-1].id)
    late = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: len(hub._watchers.get(job_id, ())) == 2)
    world.finish(job_id)
    assert await asyncio.wait_for(late, 5) == await asyncio.wait_for(early, 5)


class Interrupted(Counting):
    """Calls ``then`` once, when the first replay has come to its end."""

    then: Callable[[], Awaitable[None]] | None = None

    async def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[Event]:
        found = await super().events(job_id, after=after, limit=limit)
        if not found and self.then is not None:
            then, self.then = self.then, None
            await then()
        return found


async def test_an_event_between_replay_and_joining_is_not_lost(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    early = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._cursors)
    late_store = Interrupted(world.store)

    async def between() -> None:
        world.run(job_id)
        await until(lambda: hub._cursors[job_id] == world.store.events(job_id)[-1].id)

    late_store.then = between
    late = asyncio.create_task(collect(stream(late_store, hub, job_id, "0")))
    await until(lambda: len(hub._watchers[job_id]) == 2)
    world.finish(job_id)
    assert await asyncio.wait_for(late, 5) == await asyncio.wait_for(early, 5)


async def test_a_read_from_an_older_place_offers_nothing_twice(world: Any, store: Counting) -> None:
    job_id = await world.submit()
    world.run(job_id)
    events = world.store.events(job_id)
    hub = Hub(store, buffer=5)
    watcher = hub.join(job_id, events[1].id)
    hub._fan_out(job_id, events)
    assert await watcher.next(1) == events[2]
    with pytest.raises(TimeoutError):
        await watcher.next(0.01)


FUTURE = "9999999999999"
"""An id that no event will have: somebody's way to say "only new ones"."""


async def test_an_id_from_the_future_starves_nobody(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    ahead = asyncio.create_task(collect(stream(store, hub, job_id, FUTURE)))
    await until(lambda: hub._cursors == {job_id: FUTURE})
    other = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: len(hub._watchers[job_id]) == 2)
    world.run(job_id)
    world.finish(job_id)
    seen = await asyncio.wait_for(other, 5)  # far less than after what time a quiet stream looks for itself
    assert [kind for kind, _ in seen] == ["job.created", "job.starting", "job.running", "job.succeeded", "end"]
    ahead.cancel()
    await asyncio.wait({ahead})
    assert not hub._cursors


async def test_a_stream_from_the_future_ends_with_its_job(
    world: Any, store: Counting, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.sse.CHECK_SECONDS", 0.01)
    job_id = await world.submit()
    ahead = asyncio.create_task(collect(stream(store, hub, job_id, FUTURE)))
    await until(lambda: job_id in hub._cursors)
    world.run(job_id)
    world.finish(job_id)
    assert await asyncio.wait_for(ahead, 5) == [("end", FUTURE + END_SUFFIX)]


async def test_what_comes_from_a_later_place_waits_for_who_joined_meanwhile(world: Any, store: Counting) -> None:
    job_id = await world.submit()
    world.run(job_id)
    events = world.store.events(job_id)

    class Late(Counting):
        async def wait_events(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, Sequence[Event]]:
            if cursors[job_id] == FUTURE:  # its clock ran: the next event lies beyond, and this client came before it
                watchers.append(hub.join(job_id, events[0].id))
                return {job_id: events[2:]}
            return await super().wait_events(cursors, block_ms)

    watchers = []
    async with Hub(Late(world.store), buffer=5) as hub:
        hub.join(job_id, FUTURE)
        await until(lambda: bool(watchers))
        assert [await watchers[0].next(5) for _ in range(2)] == events[1:]


async def test_a_quiet_stream_looks_for_itself(world: Any, store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.sse.CHECK_SECONDS", 0.01)
    job_id = await world.submit()
    reading = asyncio.create_task(collect(stream(store, Hub(store, buffer=5), job_id, "0")))  # a hub that does not read
    await asyncio.sleep(0)
    world.run(job_id)
    world.finish(job_id)
    kinds = [kind for kind, _ in await asyncio.wait_for(reading, 5)]
    assert kinds == ["job.created", "job.starting", "job.running", "job.succeeded", "end"]


async def test_a_slow_reader_is_dropped_and_can_come_back(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    slow: Any = stream(store, hub, job_id, "0")
    seen: list[str] = [(await anext(slow)).id]  # now it reads no more
    fast = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._cursors)
    world.run(job_id)
    seen.append((await anext(slow)).id)
    seen.append((await anext(slow)).id)
    waiting = asyncio.ensure_future(anext(slow))
    await until(lambda: len(hub._watchers[job_id]) == 2)
    first = log(world, job_id)
    assert (await asyncio.wait_for(waiting, 5)).id == first
    seen.append(first)
    for n in range(7):  # more than its buffer holds
        newest = log(world, job_id, n=n)
        await until(lambda newest=newest: hub._cursors[job_id] == newest)  # type: ignore[misc]
    assert len(hub._watchers[job_id]) == 1
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(slow), 5)
    world.finish(job_id)
    seen += [i for _, i in await collect(stream(store, hub, job_id, seen[-1]))]
    assert seen == [i for _, i in await asyncio.wait_for(fast, 5)]


async def test_closing_the_hub_ends_every_stream_without_end(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    reading = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._cursors)
    hub.close()
    assert [kind for kind, _ in await asyncio.wait_for(reading, 2)] == ["job.created"]


async def test_a_store_that_comes_back_goes_on(
    world: Any, store: Counting, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.hub._RETRY_SECONDS", 0.01)
    job_id = await world.submit()
    store.waits_fail = True
    reading = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._cursors)
    world.run(job_id)
    world.finish(job_id)
    await asyncio.sleep(0.05)
    assert not reading.done()
    store.waits_fail = False
    assert (await asyncio.wait_for(reading, 5))[-1][0] == "end"


async def test_an_idle_stream_outlives_a_store_that_is_away(
    world: Any, store: Counting, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.hub._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("api.sse.CHECK_SECONDS", 0.01)
    job_id = await world.submit()
    reading = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._cursors)
    world.run(job_id)
    world.store.available = False
    await asyncio.sleep(0.1)
    assert not reading.done()
    world.store.available = True
    world.finish(job_id)
    assert [kind for kind, _ in await asyncio.wait_for(reading, 5)][-2:] == ["job.succeeded", "end"]


async def test_a_store_that_goes_away_in_the_replay_ends_the_stream_without_end(
    world: Any, store: Counting, hub: Hub
) -> None:
    job_id = await world.submit()
    reading: Any = stream(store, hub, job_id, "0")
    assert (await anext(reading)).event == "job.created"
    world.store.available = False
    assert await collect(reading) == []
    assert not hub._watchers


async def test_a_client_that_leaves_is_forgotten(world: Any, store: Counting, hub: Hub) -> None:
    job_id = await world.submit()
    reading = asyncio.create_task(collect(stream(store, hub, job_id, "0")))
    await until(lambda: job_id in hub._watchers)
    reading.cancel()
    await asyncio.wait({reading})
    assert not hub._watchers
    assert not hub._cursors


async def test_a_reconnect_past_the_end_is_204(world: Any, store: Counting) -> None:
    job_id = await world.submit()
    world.run(job_id)
    world.finish(job_id)
    last = world.store.events(job_id)[-1].id
    assert await has_ended(store, job_id, last)
    accept = {"Accept": "text/event-stream"}
    path = f"/v1/jobs/{job_id}/events"
    seen = await world.client.get(path, headers=accept | {"Last-Event-ID": last + END_SUFFIX})
    assert (seen.status_code, seen.content) == (204, b"")
    missed = await world.client.get(path, headers=accept | {"Last-Event-ID": last})
    assert (missed.status_code, missed.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert missed.text == f'id: {last}{END_SUFFIX}\nevent: end\ndata: {{"object":"end"}}\n\n'
    bad = await world.client.get(path, headers=accept | {"Last-Event-ID": "nonsense"})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/header/last-event-id")


def test_split_last_event_id() -> None:
    assert split_last_event_id(None) == ("0", False)
    assert split_last_event_id("5-1") == ("5-1", False)
    assert split_last_event_id("5-1-end") == ("5-1", True)
    with pytest.raises(ValueError, match="no event id"):
        split_last_event_id("5-1-fin")
