"""What a write adds to the totals."""

from __future__ import annotations

import pytest

from tests.contract.test_job_store import record
from workers.jobs import state
from workers.jobs.record import JobRecord
from workers.jobs.tally import BOUNDS, histogram, of_change, of_decision


def taken(job: JobRecord, now: float) -> JobRecord:
    change = state.claim(job, now, owner="w", lease_seconds=60)
    assert change is not None
    return change.record


def ended(job: JobRecord, now: float, saved: float | None = None) -> JobRecord:
    summary = {} if saved is None else {"flops_saved": saved}
    ran = now - (job.started_at or 0.0)
    return state.finish(job, now, fence=job.fence, status="succeeded", summary=summary, ran_seconds=ran).record


def test_the_first_claim_tells_the_wait_and_no_other_does() -> None:
    job = record(1000.0)
    first = taken(job, 1060.0)
    assert of_change(job, first) == {"queue_wait:60": 1.0, "queue_wait:sum": 60.0}
    again = state.lose(first, 2000.0, fence=1, message="gone").record
    assert of_change(first, again) == {}
    assert of_change(again, taken(again, 2001.0)) == {}, "it has run since it was queued"


def test_the_end_tells_the_time_of_all_attempts_and_what_was_saved() -> None:
    first = taken(record(1000.0), 1010.0)
    second = taken(state.lose(first, 1110.0, fence=1, message="gone", ran_seconds=100.0).record, 2000.0)
    assert of_change(second, ended(second, 2250.0, 3e15)) == {
        "run:succeeded:900": 1.0,
        "run:succeeded:sum": 350.0,
        "flops_saved": 3e15,
    }
    assert "flops_saved" not in of_change(second, ended(second, 2250.0, -1.0)), "a counter never falls"
    assert of_change(second, ended(second, 2250.0)) == {"run:succeeded:900": 1.0, "run:succeeded:sum": 350.0}


def test_a_job_that_never_ran_has_no_run_time() -> None:
    job = record(1000.0)
    change = state.cancel(job, 1500.0)
    assert change is not None
    assert of_change(job, change.record) == {}


def test_more_than_a_week_is_above_all_bounds() -> None:
    job = taken(record(0.0), 0.0)
    assert of_change(job, ended(job, BOUNDS[-1] + 1.0))["run:succeeded:+Inf"] == 1.0


def test_a_clock_that_went_back_is_no_negative_wait() -> None:
    job = record(1000.0)
    assert of_change(job, taken(job, 999.0)) == {"queue_wait:1": 1.0, "queue_wait:sum": 0.0}


@pytest.mark.parametrize(
    ("decision", "added"),
    [
        ({"policy": "linear", "frozen": ["a", "b"], "thawed": []}, {"freeze:linear:freeze": 2.0}),
        (
            {"policy": "linear", "frozen": ["c"], "thawed": ["a"]},
            {"freeze:linear:freeze": 1.0, "freeze:linear:thaw": 1.0},
        ),
        ({"frozen": ["d"]}, {}),
    ],
)
def test_units_of_a_decision_are_counted_by_policy(decision: dict[str, object], added: dict[str, float]) -> None:
    assert of_decision(decision) == added


def test_buckets_are_cumulative() -> None:
    buckets, total = histogram({"queue_wait:5": 2.0, "queue_wait:60": 1.0, "queue_wait:sum": 40.0}, "queue_wait")
    assert (dict(buckets)["1"], dict(buckets)["5"], dict(buckets)["15"], dict(buckets)["+Inf"]) == (0.0, 2.0, 2.0, 3.0)
    assert total == 40.0
