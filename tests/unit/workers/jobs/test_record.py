"""Ids, order in the queue, and what survives JSON."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from workers.jobs.record import LEASED, TERMINAL, JobRecord, Progress, new_job_id, queue_score
from workers.jobs.spec import JobSpec


def record(priority: int = 0, queued_at: float = 1.76e9) -> JobRecord:
    spec = JobSpec.model_validate(
        {"name": "run", "model": {"name": "m"}, "data": {"name": "d"}, "priority": priority, "freeze": {"window": 3}}
    )
    return JobRecord(id="job_1", spec=spec, created_at=1.0, queued_at=queued_at, updated_at=1.0)


def test_ids_sort_by_time_and_differ() -> None:
    times = [0.001, 1.0, 1.76e9, 1.76e9 + 0.001, 4e9]
    ids = [new_job_id(at) for at in times]
    assert ids == sorted(ids)
    assert len({new_job_id(1.0) for _ in range(100)}) == 100
    assert {len(job_id) for job_id in ids} == {4 + 11 + 10}
    assert new_job_id() > new_job_id(1.7e9)


def test_higher_priority_runs_first_then_the_earlier() -> None:
    order = [record(100), record(1, 2e9), record(0, 1.76e9), record(0, 1.76e9 + 0.01), record(-100, 0.0)]
    scores = [queue_score(r) for r in order]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores), "a double holds priority and a hundredth of a second"


def test_survives_json() -> None:
    before = record().model_copy(update={"progress": Progress(step=3, loss=0.1), "summary": {"accuracy": 0.5}})
    assert JobRecord.model_validate_json(before.model_dump_json()) == before


def test_a_loss_that_is_no_number_does_not_break_the_record() -> None:
    text = record().model_copy(update={"progress": Progress(loss=float("nan"))}).model_dump_json()
    assert JobRecord.model_validate_json(text).progress.loss is None


def test_terminal_and_leased_do_not_meet() -> None:
    assert not TERMINAL & LEASED
    assert record().model_copy(update={"status": "failed"}).terminal
    assert not record().terminal


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError):
        setattr(record(), "status", "running")  # noqa: B010
