"""A record that cannot be read: no store takes one, and where one lies all the same, the other jobs go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.contract.test_job_store import claimed, leave, record
from workers.jobs import state
from workers.jobs.errors import JobNotFound, RecordUnreadable, SpecInvalid
from workers.jobs.ports import Change, JobStore
from workers.jobs.record import JobRecord, Progress

Spoil = Callable[[str, str], None]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def of_options(options: dict[str, Any]) -> JobRecord:
    plain = record()
    model = plain.spec.model.model_copy(update={"options": options})
    return plain.model_copy(update={"spec": plain.spec.model_copy(update={"model": model})})


def of_rate(lr: float) -> JobRecord:
    plain = record()
    training = plain.spec.training
    optimizer = training.optimizer.model_copy(update={"lr": lr})
    training = training.model_copy(update={"optimizer": optimizer})
    return plain.model_copy(update={"spec": plain.spec.model_copy(update={"training": training})})


@pytest.mark.parametrize(
    "made",
    [of_rate(float("inf")), of_rate(float("nan")), of_options({"a": nested(220)}), of_options({"a": nested(300)})],
    ids=["inf", "nan", "deep", "deeper"],
)
def test_none_is_created(store: JobStore, made: JobRecord) -> None:
    with pytest.raises(SpecInvalid) as caught:
        store.create(made, idempotency=("key", "hash"))
    assert [problem.code for problem in caught.value.problems] == ["NOT_STORABLE"]
    assert (store.counts(), store.list(limit=9)) == ({}, ([], False))
    assert store.create(record(), idempotency=("key", "other"))[1], "the key was not used up"


def test_no_update_makes_one(store: JobStore) -> None:
    job = claimed(store)
    told = store.events(job.id)
    progress = Progress(ratio=float("nan"))
    for change in (
        partial(state.report_progress, fence=1, progress=progress),
        partial(state.finish, fence=1, status="succeeded", summary={"a": nested(300)}),
    ):
        with pytest.raises(RecordUnreadable):
            store.update(job.id, change)
    assert (store.get(job.id), store.events(job.id)) == (job, told)


@pytest.mark.parametrize("text", ["{", "null", '{"id": "job_1"}'])
def test_one_among_many_is_left_out_and_logged(
    store: JobStore, spoil: Spoil, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    held, bad_held = claimed(store, 1.0), claimed(store, 2.0)
    bad_waiting, waiting = store.create(record(3.0))[0], store.create(record(4.0))[0]
    for job in (bad_held, bad_waiting):
        spoil(job.id, text)
    with caplog.at_level(logging.WARNING):
        assert [r.id for r in store.queued()] == [waiting.id]
    assert bad_waiting.id in caplog.text
    assert [r.id for r in store.active()] == [held.id]
    assert [r.id for r in store.list(limit=9)[0]] == [waiting.id, held.id]
    assert [r.id for r in store.list(limit=1, newest_first=False)[0]] == [held.id]
    assert store.counts() == {"starting": 2, "queued": 2}


def test_one_by_itself_says_what_is_wrong_and_stays(store: JobStore, spoil: Spoil) -> None:
    job = store.create(record())[0]
    spoil(job.id, job.model_dump_json().replace('"lr":0.001', '"lr":null'))
    for call in (store.get, partial(store.update, decide=leave), partial(store.update, decide=touch)):
        with pytest.raises(RecordUnreadable, match=r"spec\.training\.optimizer\.lr"):
            call(job.id)


def touch(found: JobRecord, _: float) -> Change:
    return Change(found.model_copy(update={"run_seconds": 1.0}))


@pytest.mark.parametrize("text", ["{", '{"id": "job_1"}'])
def test_one_can_be_deleted_whatever_its_status_was(store: JobStore, spoil: Spoil, text: str) -> None:
    waiting, held, sound = (
        store.create(record(), idempotency=("key", "hash"))[0],
        claimed(store),
        store.create(record())[0],
    )
    for job in (waiting, held):
        spoil(job.id, text)
        store.delete(job.id)
        with pytest.raises(JobNotFound):
            store.get(job.id)
    assert store.deleted() == sorted([waiting.id, held.id])
    assert (store.counts(), store.places([waiting.id, sound.id])) == ({"queued": 1}, {sound.id: 1})
    assert store.create(record(), idempotency=("key", "hash"))[1], "its key is free again"
    with pytest.raises(JobNotFound):  # who still runs it is told to stop
        store.update(held.id, partial(state.renew, fence=1, lease_seconds=60))
