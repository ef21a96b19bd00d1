"""What every job store does: the twin, Redis, and the async forms of both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from workers.jobs import state
from workers.jobs.errors import IdempotencyConflict, IllegalTransition, JobNotFound, StaleFence
from workers.jobs.ports import Change, JobStore
from workers.jobs.record import Event, JobRecord, Progress, WorkerInfo, new_job_id
from workers.jobs.spec import JobSpec


def record(at: float = 1000.0, *, name: str = "run", priority: int = 0, **metadata: str) -> JobRecord:
    spec = JobSpec.model_validate(
        {"name": name, "model": {"name": "m"}, "data": {"name": "d"}, "priority": priority, "metadata": metadata}
    )
    return JobRecord(id=new_job_id(at), spec=spec, created_at=at, queued_at=at, updated_at=at)


def claimed(store: JobStore, at: float = 1000.0, owner: str = "w1", lease: float = 60.0) -> JobRecord:
    job = store.create(record(at))[0]
    return store.update(job.id, partial(state.claim, owner=owner, lease_seconds=lease))


def leave(_: JobRecord, __: float) -> None:
    """A decision to change nothing."""


def types(store: JobStore, job_id: str) -> list[str]:
    return [event.type for event in store.events(job_id)]


class TestRecords:
    def test_created_is_found_queued_counted_and_told(self, store: JobStore) -> None:
        job, new = store.create(record())
        assert new
        assert job.version == 1
        assert store.get(job.id) == job
        assert [r.id for r in store.queued()] == [job.id]
        assert store.counts() == {"queued": 1}
        assert types(store, job.id) == ["job.created"]

    def test_unknown_job(self, store: JobStore) -> None:
        for call in (store.get, partial(store.update, decide=leave)):
            with pytest.raises(JobNotFound):
                call("job_nothing")
        with pytest.raises(JobNotFound):
            store.append_event("job_nothing", Event(type="x", at=1.0))
        with pytest.raises(JobNotFound):
            store.put_freeze("job_nothing", 1, {})
        assert store.events("job_nothing") == []
        assert store.get_freeze("job_nothing") is None
        assert store.decisions("job_nothing") == []

    def test_the_same_id_twice_is_refused_and_changes_nothing(self, store: JobStore) -> None:
        first = store.create(record())[0]
        with pytest.raises(ValueError, match="exists"):
            store.create(first.model_copy(update={"queued_at": 5.0}))
        assert store.get(first.id) == first
        assert types(store, first.id) == ["job.created"]

    def test_update_moves_the_job_between_the_indexes(self, store: JobStore) -> None:
        job = claimed(store)
        assert (job.status, job.fence, job.attempt, job.version) == ("starting", 1, 1, 2)
        assert store.get(job.id) == job
        assert store.queued() == []
        assert [r.id for r in store.active()] == [job.id]
        store.update(job.id, partial(state.report_progress, fence=1, progress=Progress(step=3)))
        assert store.counts() == {"running": 1}
        store.update(job.id, partial(state.finish, fence=1, status="succeeded"))
        assert store.counts() == {"succeeded": 1}
        assert store.active() == []
        assert types(store, job.id) == ["job.created", "job.starting", "job.running", "job.succeeded"]

    def test_a_lost_job_is_queued_again_at_its_place(self, store: JobStore) -> None:
        first, second = claimed(store, 1000.0), store.create(record(2000.0))[0]
        store.update(first.id, partial(state.lose, fence=1, message="gone"))
        assert [r.id for r in store.queued()] == [first.id, second.id]
        assert store.active() == []

    def test_update_to_nothing_writes_nothing(self, store: JobStore) -> None:
        job = store.create(record())[0]
        assert store.update(job.id, leave) == job
        assert store.get(job.id).version == 1

    def test_what_decide_raises_comes_out_and_nothing_is_written(self, store: JobStore) -> None:
        job = claimed(store)
        done = store.update(job.id, partial(state.finish, fence=1, status="failed", reason="code_error"))
        with pytest.raises(IllegalTransition):
            store.update(job.id, state.cancel)
        assert store.get(job.id) == done
        assert types(store, job.id)[-1] == "job.failed"

    def test_decide_gets_the_stores_clock(self, store: JobStore) -> None:
        job = store.create(record())[0]
        seen: list[float] = []
        before = store.now()
        store.update(job.id, lambda _, now: seen.append(now))
        assert before <= seen[0] <= store.now()


class TestQueue:
    def test_order_is_priority_then_time(self, store: JobStore) -> None:
        late, early = store.create(record(2000.0))[0], store.create(record(1000.0))[0]
        urgent, low = store.create(record(3000.0, priority=5))[0], store.create(record(1.0, priority=-1))[0]
        assert [r.id for r in store.queued()] == [urgent.id, early.id, late.id, low.id]
        assert [r.id for r in store.queued(limit=2)] == [urgent.id, early.id]
        store.update(urgent.id, partial(state.claim, owner="w", lease_seconds=60.0))
        assert [r.id for r in store.queued(limit=1)] == [early.id]

    def test_many_claim_and_one_wins(self, store: JobStore) -> None:
        job = store.create(record())[0]
        winners: list[str] = []
        start = threading.Barrier(8)

        def claim(owner: str) -> None:
            start.wait()
            got: list[bool] = []

            def decide(record: JobRecord, now: float) -> Change | None:
                change = state.claim(record, now, owner=owner, lease_seconds=60)
                got[:] = [change is not None]
                return change

            after = store.update(job.id, decide)
            if got[0]:
                winners.append(owner)
                assert after.owner == owner

        threads = [threading.Thread(target=claim, args=(f"w{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert winners == [store.get(job.id).owner]
        assert store.get(job.id).fence == 1
        assert types(store, job.id) == ["job.created", "job.starting"]

    def test_no_update_is_lost(self, store: JobStore) -> None:
        job = store.create(record())[0]

        def more(record: JobRecord, now: float) -> Change:
            return Change(record.model_copy(update={"run_seconds": record.run_seconds + 1}))

        def work() -> None:
            for _ in range(10):
                store.update(job.id, more)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get(job.id).run_seconds == 40
        assert store.get(job.id).version == 41


class TestIdempotency:
    def test_same_key_and_body_gives_the_first_job(self, store: JobStore) -> None:
        first, _ = store.create(record(), idempotency=("key", "hash"))
        again, new = store.create(record(), idempotency=("key", "hash"))
        assert (again, new) == (first, False)
        assert store.counts() == {"queued": 1}
        assert types(store, first.id) == ["job.created"]

    def test_the_replay_shows_the_job_as_it_is_now(self, store: JobStore) -> None:
        first, _ = store.create(record(), idempotency=("key", "hash"))
        store.update(first.id, state.cancel)
        assert store.create(record(), idempotency=("key", "hash"))[0].status == "cancelled"

    def test_same_key_and_another_body_is_refused(self, store: JobStore) -> None:
        store.create(record(), idempotency=("key", "hash"))
        with pytest.raises(IdempotencyConflict):
            store.create(record(), idempotency=("key", "other"))
        assert store.counts() == {"queued": 1}

    def test_a_key_tells_what_was_made_with_it(self, store: JobStore) -> None:
        assert store.created_with(("key", "hash")) is None
        job, _ = store.create(record(), idempotency=("key", "hash"))
        assert store.created_with(("key", "hash")) == job
        done = store.update(job.id, state.cancel)
        assert store.created_with(("key", "hash")) == done
        with pytest.raises(IdempotencyConflict):
            store.created_with(("key", "other"))
        assert store.created_with(("other", "hash")) is None

    def test_other_keys_do_not_meet(self, store: JobStore) -> None:
        assert store.create(record(), idempotency=("a", "hash"))[1]
        assert store.create(record(), idempotency=("b", "hash"))[1]


class TestList:
    def test_pages_in_both_orders(self, store: JobStore) -> None:
        ids = [store.create(record(float(n)))[0].id for n in range(5)]
        for newest_first, expected in ((True, ids[::-1]), (False, ids)):
            got: list[str] = []
            more, after = True, None
            while more:
                page, more = store.list(limit=2, after=after, newest_first=newest_first)
                got += [r.id for r in page]
                after = got[-1]
            assert got == expected

    def test_exact_page_says_that_nothing_follows(self, store: JobStore) -> None:
        for n in range(2):
            store.create(record(float(n)))
        assert store.list(limit=2)[1] is False
        assert store.list(limit=1)[1] is True

    def test_filters(self, store: JobStore) -> None:
        plain = store.create(record(1.0, name="a"))[0]
        tagged = store.create(record(2.0, name="b", team="x", stage="y"))[0]
        store.update(tagged.id, state.cancel)
        third = claimed(store, 3.0)

        def ids(**filters: Any) -> list[str]:
            page, more = store.list(limit=10, **filters)
            assert not more
            return [r.id for r in page]

        assert ids(status=["queued"]) == [plain.id]
        assert ids(status=["queued", "starting"]) == [third.id, plain.id]
        assert ids(status=["queued", "starting"], newest_first=False) == [plain.id, third.id]
        assert ids(name="b") == [tagged.id]
        assert ids(metadata={"team": "x"}) == [tagged.id]
        assert ids(metadata={"team": "x", "stage": "z"}) == []
        assert ids(name="a", status=["cancelled"]) == []

    def test_filters_look_beyond_the_first_chunk(self, store: JobStore) -> None:
        wanted = [store.create(record(float(n), name="needle"))[0].id for n in (1, 2)]
        for n in range(3, 153):
            store.create(record(float(n)))
        page, more = store.list(limit=1, name="needle")
        assert ([r.id for r in page], more) == ([wanted[1]], True)
        page, more = store.list(limit=1, name="needle", after=wanted[1])
        assert ([r.id for r in page], more) == ([wanted[0]], False)


class TestTallies:
    def test_waits_runs_and_savings_add_up_over_jobs(self, store: JobStore) -> None:
        assert store.tallies() == {}
        for waited, saved in ((30.0, 1e18), (50.0, 0.5e18)):
            job = store.create(record(store.now() - waited))[0]
            store.update(job.id, partial(state.claim, owner="w1", lease_seconds=60))
            store.update(job.id, partial(state.finish, fence=1, status="succeeded", summary={"flops_saved": saved}))
        found = store.tallies()
        assert (found["queue_wait:60"], found["run:succeeded:1"], found["flops_saved"]) == (2.0, 2.0, 1.5e18)
        assert 80.0 <= found["queue_wait:sum"] < 140.0

    def test_units_are_counted_by_policy(self, store: JobStore) -> None:
        job = claimed(store)
        before = store.tallies()
        store.append_decision(job.id, 1, {"step": 1, "policy": "linear", "frozen": ["a", "b"], "thawed": []})
        store.append_decision(job.id, 1, {"step": 2, "policy": "linear", "frozen": ["c"], "thawed": ["a"]})
        assert store.tallies() == {**before, "freeze:linear:freeze": 3.0, "freeze:linear:thaw": 1.0}

    def test_what_was_refused_adds_nothing(self, store: JobStore) -> None:
        job = claimed(store)
        before = store.tallies()
        with pytest.raises(StaleFence):
            store.append_decision(job.id, 2, {"step": 1, "policy": "linear", "frozen": ["a"]})
        with pytest.raises(StaleFence):
            store.update(job.id, partial(state.finish, fence=2, status="failed"))
        assert store.tallies() == before


class TestDelete:
    def ended(self, store: JobStore) -> JobRecord:
        """A job that left something under every key."""
        job = store.create(record(name="gone"), idempotency=("key", "hash"))[0]
        store.update(job.id, partial(state.claim, owner="w1", lease_seconds=60))
        store.put_freeze(job.id, 1, {"step": 1})
        store.append_decision(job.id, 1, {"step": 5, "frozen": ["a"]})
        store.supersede_decisions(job.id, 1, after_step=1)
        store.add_command(job.id, "thaw", None)
        store.settle_command(job.id, 1, 1, step=6)
        return store.update(job.id, partial(state.finish, fence=1, status="succeeded"))

    def test_nothing_of_it_is_left_and_others_stay(self, store: JobStore) -> None:
        job, other = self.ended(store), store.create(record(2000.0))[0]
        counted = store.tallies()
        store.delete(job.id)
        with pytest.raises(JobNotFound):
            store.get(job.id)
        assert [r.id for r in store.list(limit=5)[0]] == [other.id]
        assert store.list(limit=5, status=["succeeded"])[0] == []
        assert store.counts() == {"queued": 1}
        assert (store.events(job.id), store.get_freeze(job.id)) == ([], None)
        assert (store.decisions(job.id), store.commands(job.id)) == ([], [])
        assert store.tallies() == counted, "what was frozen was frozen"
        assert counted["run:succeeded:sum"] >= 0

    def test_its_id_stays_until_its_files_are_gone(self, store: JobStore) -> None:
        assert store.deleted() == []
        job_id = self.ended(store).id
        store.delete(job_id)
        assert store.deleted() == [job_id]
        for _ in range(2):
            store.files_removed(job_id)
            assert store.deleted() == []

    @pytest.mark.parametrize("status", ["queued", "starting", "running", "cancelling"])
    def test_what_has_not_ended_stays_as_it_is(self, store: JobStore, status: str) -> None:
        job = store.create(record())[0]
        if status != "queued":
            store.update(job.id, partial(state.claim, owner="w1", lease_seconds=60))
        if status == "running":
            store.update(job.id, partial(state.report_progress, fence=1, progress=Progress(step=1)))
        if status == "cancelling":
            store.update(job.id, state.cancel)
        before = store.get(job.id), store.events(job.id)
        with pytest.raises(IllegalTransition, match=f"it is {status}; .*delete it when it has ended"):
            store.delete(job.id)
        assert (store.get(job.id), store.events(job.id)) == before
        assert store.deleted() == []

    def test_an_unknown_job_and_one_that_was_deleted_are_not_found(self, store: JobStore) -> None:
        job = self.ended(store)
        store.delete(job.id)
        for job_id in (job.id, "job_nothing"):
            with pytest.raises(JobNotFound):
                store.delete(job_id)

    def test_nobody_writes_to_it_any_more(self, store: JobStore) -> None:
        job = self.ended(store)
        store.delete(job.id)
        writes: list[Callable[[], object]] = [
            lambda: store.update(job.id, partial(state.renew, fence=1, lease_seconds=60)),
            lambda: store.append_event(job.id, Event(type="x", at=1.0)),
            lambda: store.put_freeze(job.id, 1, {}),
            lambda: store.append_decision(job.id, 1, {"step": 1}),
            lambda: store.add_command(job.id, "thaw", None),
        ]
        for write in writes:
            with pytest.raises(JobNotFound):
                write()
        assert (store.events(job.id), store.get_freeze(job.id), store.decisions(job.id)) == ([], None, [])

    def test_its_idempotency_key_makes_a_new_job(self, store: JobStore) -> None:
        job = self.ended(store)
        store.delete(job.id)
        again, new = store.create(record(), idempotency=("key", "another hash"))
        assert new
        assert again.id != job.id


class TestFence:
    def test_only_the_current_attempt_writes(self, store: JobStore) -> None:
        job = claimed(store)
        store.update(job.id, partial(state.lose, fence=1, message="gone"))
        again = store.update(job.id, partial(state.claim, owner="w2", lease_seconds=60))
        assert again.fence == 2
        before = (store.get(job.id), store.events(job.id))
        writes: list[Callable[[], object]] = [
            lambda: store.update(job.id, partial(state.renew, fence=1, lease_seconds=60)),
            lambda: store.append_event(job.id, Event(type="x", at=1.0), fence=1),
            lambda: store.put_freeze(job.id, 1, {"old": True}),
            lambda: store.append_decision(job.id, 1, {"step": 1}),
            lambda: store.supersede_decisions(job.id, 1, after_step=0),
        ]
        for write in writes:
            with pytest.raises(StaleFence) as caught:
                write()
            assert (caught.value.fence, caught.value.current) == (1, 2)
        assert (store.get(job.id), store.events(job.id)) == before
        assert store.get_freeze(job.id) is None
        assert store.decisions(job.id) == []

    def test_nobody_writes_once_the_job_has_ended(self, store: JobStore) -> None:
        job = claimed(store)
        store.put_freeze(job.id, 1, {"step": 1})
        store.update(job.id, partial(state.finish, fence=1, status="succeeded"))
        with pytest.raises(StaleFence):
            store.put_freeze(job.id, 1, {"step": 2})
        assert store.get_freeze(job.id) == {"step": 1}


class TestEvents:
    def test_ids_grow_and_page(self, store: JobStore) -> None:
        job = store.create(record())[0]
        ids = [store.append_event(job.id, Event(type="n", at=float(n), data={"n": n})) for n in range(5)]
        events = store.events(job.id)
        assert [e.id for e in events][1:] == ids
        assert [e.data["n"] for e in events[1:]] == list(range(5))
        assert [e.at for e in events[1:]] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert [e.id for e in store.events(job.id, after=ids[1], limit=2)] == ids[2:4]
        assert store.events(job.id, after=ids[-1]) == []

    def test_a_cursor_that_is_none_is_refused(self, store: JobStore) -> None:
        with pytest.raises(ValueError, match="event id"):
            store.events("job_x", after="last tuesday")

    def test_what_json_does_not_know_becomes_null(self, store: JobStore) -> None:
        job = store.create(record())[0]
        store.append_event(job.id, Event(type="log", at=1.0, data={"loss": float("nan"), "all": [float("inf"), 1]}))
        assert store.events(job.id)[-1].data == {"loss": None, "all": [None, 1]}


class TestFreezing:
    def test_status_document_is_replaced(self, store: JobStore) -> None:
        job = claimed(store)
        document = {"units": [], "savings": {}, "step": 3, "probability": 0.123456789012345678}
        store.put_freeze(job.id, 1, {"step": 1})
        store.put_freeze(job.id, 1, document)
        assert store.get_freeze(job.id) == document

    def test_decisions_count_from_one_and_page(self, store: JobStore) -> None:
        job = claimed(store)
        assert [store.append_decision(job.id, 1, {"step": s, "names": []}) for s in (10, 20, 30)] == [1, 2, 3]
        assert store.decisions(job.id)[0] == {"step": 10, "names": [], "fence": 1, "seq": 1, "superseded": False}
        assert [d["seq"] for d in store.decisions(job.id, after=1, limit=1)] == [2]
        assert store.decisions(job.id, after=3) == []

    def test_superseded_are_marked_once_and_kept(self, store: JobStore) -> None:
        job = claimed(store)
        for step in (10, 20, 30):
            store.append_decision(job.id, 1, {"step": step})
        assert store.supersede_decisions(job.id, 1, after_step=10) == 2
        assert store.supersede_decisions(job.id, 1, after_step=10) == 0
        store.append_decision(job.id, 1, {"step": 20})
        assert [d["superseded"] for d in store.decisions(job.id)] == [False, True, True, False]

    def test_a_decision_without_step_is_refused(self, store: JobStore) -> None:
        job = claimed(store)
        with pytest.raises(ValueError, match="step"):
            store.append_decision(job.id, 1, {"names": []})


class TestWorkersAndLocks:
    def worker(self, name: str) -> WorkerInfo:
        return WorkerInfo(id=name, host="h", pid=1, devices=["cpu"], started_at=1.0, heartbeat_at=2.0)

    def test_workers_are_listed_until_they_go(self, store: JobStore) -> None:
        store.put_worker(self.worker("b"), 60.0)
        store.put_worker(self.worker("a"), 60.0)
        store.put_worker(self.worker("a").model_copy(update={"state": "busy"}), 60.0)
        assert [(w.id, w.state) for w in store.workers()] == [("a", "busy"), ("b", "idle")]
        store.remove_worker("a")
        assert [w.id for w in store.workers()] == ["b"]

    def test_a_silent_worker_expires(self, store: JobStore) -> None:
        store.put_worker(self.worker("a"), 0.05)
        deadline = store.now() + 5.0
        while store.workers() and store.now() < deadline:
            pass
        assert store.workers() == []

    def test_a_lock_has_one_holder_who_may_renew(self, store: JobStore) -> None:
        assert store.try_lock("reaper", "a", 60.0)
        assert not store.try_lock("reaper", "b", 60.0)
        assert store.try_lock("reaper", "a", 0.05)
        deadline = store.now() + 5.0
        while not (taken := store.try_lock("reaper", "b", 60.0)) and store.now() < deadline:
            pass
        assert taken
        assert not store.try_lock("reaper", "a", 60.0)
        assert store.try_lock("other", "a", 60.0)


def test_ping_and_now(store: JobStore) -> None:
    store.ping()
    assert 1.7e9 < store.now() < 1e11
