"""What only a store behind a connection has to get right: a write whose reply was lost is sent again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.conftest import StoreUrl
from tests.contract.test_job_store import record
from workers._redis import MAX_BLOCK_MS, REPLY_SECONDS, Call, Driver, Eval, Step
from workers._redis_ops import Ops
from workers.jobs import state
from workers.jobs.errors import StoreUnavailable
from workers.jobs.ports import Change
from workers.jobs.record import Event, JobRecord, WorkerInfo
from workers.redis_store import RedisJobStore


def touch(found: JobRecord, _: float) -> Change:
    return Change(found.model_copy(update={"run_seconds": found.run_seconds + 1}))


class Stutter(Driver):
    """Sends every script twice, as a client does that lost the first reply."""

    def _do(self, step: Step) -> Any:
        if isinstance(step, Eval):
            super()._do(step)
        return super()._do(step)


@pytest.fixture
def store(store_url: StoreUrl) -> Iterator[RedisJobStore]:
    made = RedisJobStore(*store_url)
    yield made
    made.close()


@pytest.fixture
def stutter(store: RedisJobStore, store_url: StoreUrl) -> RedisJobStore:
    store.close()
    store._driver = Stutter(store_url.url)
    return store


def test_a_repeated_write_counts_once(stutter: RedisJobStore) -> None:
    job, new = stutter.create(record(), idempotency=("key", "hash"))
    assert new
    claimed = stutter.update(job.id, partial(state.claim, owner="w", lease_seconds=60.0))
    assert (claimed.attempt, claimed.version, claimed.owner) == (1, 2, "w")
    assert stutter.update(job.id, touch).run_seconds == 1
    ids = [stutter.append_event(job.id, Event(type="log", at=1.0), fence=1) for _ in range(2)]
    assert [e.type for e in stutter.events(job.id)] == ["job.created", "job.starting", "log", "log"]
    assert [e.id for e in stutter.events(job.id)][2:] == ids
    decisions = [{"step": step, "policy": "linear", "frozen": ["a"]} for step in (1, 2)]
    assert [stutter.append_decision(job.id, 1, decision) for decision in decisions] == [1, 2]
    assert [d["step"] for d in stutter.decisions(job.id)] == [1, 2]
    tallies = stutter.tallies()
    assert (tallies["queue_wait:+Inf"], tallies["freeze:linear:freeze"]) == (1.0, 2.0)
    assert stutter.try_lock("l", "a", 60.0)


def test_a_deletion_whose_reply_was_lost_is_one(stutter: RedisJobStore) -> None:
    job = stutter.create(record())[0]
    stutter.update(job.id, state.cancel)
    stutter.delete(job.id)
    assert stutter.deleted() == [job.id]


def test_a_deleted_job_leaves_no_key(store: RedisJobStore, store_url: StoreUrl) -> None:
    job = store.create(record(), idempotency=("key", "hash"))[0]
    store.update(job.id, partial(state.claim, owner="w", lease_seconds=60.0))
    store.put_freeze(job.id, 1, {})
    store.append_decision(job.id, 1, {"step": 1})
    store.supersede_decisions(job.id, 1, after_step=0)
    store.add_command(job.id, "thaw", None)
    store.settle_command(job.id, 1, 1, step=1)
    store.update(job.id, partial(state.finish, fence=1, status="succeeded"))
    store.delete(job.id)
    keys = _one(Call(("KEYS", f"{store_url.prefix}*")))
    assert sorted(store._driver.run(keys)) == [f"{store_url.prefix}deleted", f"{store_url.prefix}tallies"]


def test_without_idempotency_key_too(stutter: RedisJobStore) -> None:
    job, new = stutter.create(record())
    assert new
    assert [e.type for e in stutter.events(job.id)] == ["job.created"]


def test_a_record_that_never_stands_still_is_given_up(store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers._redis_ops.MAX_CONFLICTS", 9)  # a hundred take seconds
    job = store.create(record())[0]
    calls = 0

    def overtaken(found: JobRecord, now: float) -> Change:
        nonlocal calls
        calls += 1
        store.update(job.id, touch)
        return touch(found, now)

    with pytest.raises(StoreUnavailable, match="too many"):
        store.update(job.id, overtaken)
    assert calls == 9
    assert store.get(job.id).run_seconds == calls


def test_scripts_are_sent_again_to_a_server_that_forgot_them(store: RedisJobStore) -> None:
    store.create(record())
    store._driver.run(_one(Call(("SCRIPT", "FLUSH"))))
    assert store.create(record())[1]


def test_workers_that_expired_leave_the_index(store: RedisJobStore, store_url: StoreUrl) -> None:
    index = Call(("SMEMBERS", f"{store_url.prefix}workers"))
    for name, ttl in (("gone", 0.001), ("here", 60.0)):
        info = WorkerInfo(id=name, host="h", pid=1, started_at=1.0, heartbeat_at=1.0)
        store.put_worker(info, ttl)
    deadline = store.now() + 5.0
    while len(store.workers()) > 1 and store.now() < deadline:
        pass
    assert store._driver.run(_one(index)) == {"here"}


def _one(step: Step) -> Any:
    return (yield step)


def test_every_key_is_under_the_prefix(store: RedisJobStore, store_url: StoreUrl) -> None:
    job = store.create(record(), idempotency=("key", "hash"))[0]
    store.update(job.id, partial(state.claim, owner="w", lease_seconds=60.0))
    store.put_freeze(job.id, 1, {})
    store.append_decision(job.id, 1, {"step": 1})
    store.supersede_decisions(job.id, 1, after_step=0)
    store.try_lock("reaper", "a", 60.0)
    keys = store._driver.run(_one(Call(("KEYS", f"{store_url.prefix}*"))))
    parts = ("jobs", "status:starting", f"job:{job.id}", f"events:{job.id}", f"freeze:{job.id}", "idempotency:key")
    decisions = (f"decisions:{job.id}", f"decisions:{job.id}:steps", f"decisions:{job.id}:gone")
    assert sorted(keys) == sorted(store_url.prefix + part for part in (*parts, *decisions, "lock:reaper", "tallies"))
    ttl = store._driver.run(_one(Call(("TTL", f"{store_url.prefix}idempotency:key"))))
    assert 86000 < ttl <= 86400


def test_a_blocking_read_ends_before_the_client_gives_up() -> None:
    assert MAX_BLOCK_MS / 1000 < REPLY_SECONDS
    step = next(Ops("p:").wait_events({"j": "0"}, 3_600_000))
    assert isinstance(step, Call)
    assert step.args[:5] == ("XREAD", "COUNT", 100, "BLOCK", MAX_BLOCK_MS)


@pytest.mark.parametrize("text", ["{", '{"id": "w2"}'])
def test_a_worker_that_cannot_be_read_hides_no_other(
    store: RedisJobStore, store_url: StoreUrl, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("w1", "w2", "w3"):
        store.put_worker(WorkerInfo(id=name, host="h", pid=1, started_at=1.0, heartbeat_at=1.0), 60.0)
    driver = Driver(store_url.url)
    driver.client.set(f"{store_url.prefix}worker:w2", text)
    driver.close()
    assert [worker.id for worker in store.workers()] == ["w1", "w3"]
    assert "left out a worker" in caplog.text
