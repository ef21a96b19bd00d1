"""A queue of any length: walked page by page, with every job's place told without reading the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.contract.test_job_store import record
from workers.jobs import state
from workers.jobs.ports import JobStore
from workers.jobs.record import JobRecord, of_queue_score, queue_score

claim = partial(state.claim, owner="w", lease_seconds=60.0)


def walk(store: JobStore, limit: int) -> list[str]:
    """Ids in the order in which a walk meets them; every page but the last is full."""
    met: list[str] = []
    after: JobRecord | None = None
    while page := store.queued(limit, after=after):
        met += [job.id for job in page]
        after = page[-1]
        if len(page) < limit:
            break
    return met


def fill(store: JobStore) -> list[str]:
    """Seven jobs; ids in the order of the queue."""
    made = [store.create(record(at, priority=p))[0] for p, at in ((0, 5.0), (5, 6.0), (0, 3.0), (-3, 1.0), (5, 2.0))]
    same = [store.create(record(4.0))[0] for _ in range(2)]  # the very same place but for the id
    return [job.id for job in sorted(made + same, key=lambda job: (queue_score(job), job.id))]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_a_walk_meets_every_job_once_in_order(store: JobStore, limit: int) -> None:
    ids = fill(store)
    assert walk(store, limit) == ids == [job.id for job in store.queued()]


def test_it_goes_on_behind_a_job_that_has_left(store: JobStore) -> None:
    ids = fill(store)
    last = store.queued(2)[-1]
    store.update(last.id, claim)
    assert [job.id for job in store.queued(3, after=last)] == ids[2:5]


def test_a_full_page_is_full_whatever_could_not_be_read(store: JobStore, spoil: Callable[[str, str], None]) -> None:
    ids = fill(store)
    for job_id in ids[:3]:
        spoil(job_id, "{}")
    assert [job.id for job in store.queued(2)] == ids[3:5]
    assert walk(store, 2) == ids[3:]


def test_places_are_those_of_the_walk(store: JobStore) -> None:
    ids = fill(store)
    gone = ids.pop(0)
    store.update(gone, claim)
    assert store.places([*ids[::-1], gone, "job_nothing"]) == {job_id: place for place, job_id in enumerate(ids, 1)}
    assert store.places(ids[4:5]) == {ids[4]: 5}
    assert store.places([]) == {}


def test_the_oldest_is_found_whatever_its_priority(store: JobStore) -> None:
    assert store.oldest_queued() is None
    now = store.now()
    store.create(record(now))
    assert store.oldest_queued() == pytest.approx(now, abs=0.01)
    for priority, age in ((100, 10.0), (7, 30.0), (-100, 20.0)):
        store.create(record(now - age, priority=priority))
    assert store.oldest_queued() == pytest.approx(now - 30.0, abs=0.01)
    store.update(store.queued()[1].id, claim)
    assert store.oldest_queued() == pytest.approx(now - 20.0, abs=0.01)


@pytest.mark.parametrize("priority", [-100, -1, 0, 1, 100])
@pytest.mark.parametrize("at", [0.0, 1.7e9, 9.9e10])
def test_a_score_tells_priority_and_time(priority: int, at: float) -> None:
    found = of_queue_score(queue_score(record(at, priority=priority)))
    assert found == (priority, pytest.approx(at, abs=0.01))
