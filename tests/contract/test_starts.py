"""A job that starts from the weights of another one: those stay until it has ended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.contract.test_job_store import claimed, record
from workers.jobs import state
from workers.jobs.errors import IllegalTransition, SpecInvalid
from workers.jobs.ports import JobStore
from workers.jobs.record import JobRecord


def source(store: JobStore) -> JobRecord:
    job = claimed(store)
    return store.update(job.id, partial(state.finish, fence=1, status="succeeded"))


def started_from(job_id: str) -> JobRecord:
    plain = record(2000.0)
    model = plain.spec.model.model_copy(update={"init_from": job_id})
    return plain.model_copy(update={"spec": plain.spec.model_copy(update={"model": model})})


def test_the_start_of_a_job_stays_until_that_job_has_ended(store: JobStore) -> None:
    start = source(store)
    user = store.create(started_from(start.id))[0]
    for status in ("queued", "starting", "cancelling"):
        with pytest.raises(IllegalTransition, match=f"job {user.id}, which is {status}, starts from its weights"):
            store.delete(start.id)
        if status == "queued":
            store.update(user.id, partial(state.claim, owner="w1", lease_seconds=60))
        if status == "starting":
            store.update(user.id, state.cancel)
    assert store.get(start.id) == start
    store.update(user.id, partial(state.finish, fence=1, status="cancelled"))
    store.delete(start.id)
    assert store.deleted() == [start.id]


def test_a_user_that_was_deleted_keeps_nothing(store: JobStore) -> None:
    start = source(store)
    user = store.create(started_from(start.id))[0]
    store.update(user.id, state.cancel)
    store.delete(user.id)
    store.delete(start.id)
    assert store.counts() == {}


def test_the_start_forgets_a_user_that_was_deleted(store: JobStore) -> None:
    """A start with thousands of them would hold up the store when it is deleted itself: it asks for each."""
    start, other = source(store), source(store)
    user = store.create(started_from(start.id))[0]
    store.update(user.id, state.cancel)
    store.delete(user.id)
    again = started_from(other.id).model_copy(update={"id": user.id})
    store.create(again)
    store.delete(start.id)  # were that one still among its users, it would have to stay: it has not ended
    with pytest.raises(IllegalTransition, match=f"job {user.id}, which is queued, starts from its weights"):
        store.delete(other.id)


def test_a_user_that_cannot_be_read_names_no_start_and_can_be_deleted_all_the_same(
    store: JobStore, spoil: Callable[[str, str], None]
) -> None:
    start = source(store)
    user = store.create(started_from(start.id))[0]
    spoil(user.id, "{")
    store.delete(user.id)
    store.delete(start.id)
    assert store.counts() == {}


def test_no_job_starts_from_one_that_is_gone(store: JobStore) -> None:
    start = source(store)
    store.delete(start.id)
    with pytest.raises(SpecInvalid, match=start.id):
        store.create(started_from(start.id), idempotency=("key", "hash"))
    assert store.counts() == {}
    assert store.create(record(), idempotency=("key", "other"))[1], "the key was not used up"


def test_a_repeat_of_a_submission_is_answered_though_the_start_is_gone(store: JobStore) -> None:
    start = source(store)
    user = store.create(started_from(start.id), idempotency=("key", "hash"))[0]
    ended = store.update(user.id, state.cancel)
    store.delete(start.id)
    assert store.create(started_from(start.id), idempotency=("key", "hash")) == (ended, False)
