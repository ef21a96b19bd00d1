"""Every transition of a job, over the whole table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest

from workers.jobs import state
from workers.jobs.errors import IllegalTransition, JobError, StaleFence
from workers.jobs.ports import Change
from workers.jobs.record import LEASED, TERMINAL, JobRecord, Progress, Status
from workers.jobs.spec import JobSpec

STATUSES: tuple[str, ...] = get_args(Status)
NOW, DAY = 1000.0, 24 * 3600.0
SPEC = JobSpec.model_validate({"name": "run", "model": {"name": "m"}, "data": {"name": "d"}, "max_attempts": 2})


def job(status: str, **fields: Any) -> JobRecord:
    """A record as it is in that status in the middle of its first attempt."""
    held: dict[str, Any] = {}
    if status in LEASED:
        held = {"owner": "w1", "lease_expires_at": 1100.0, "last_heartbeat_at": 990.0}
    if status != "queued":
        held |= {"attempt": 1, "fence": 1, "started_at": 900.0}
    base = JobRecord(id="job_1", spec=SPEC, created_at=800.0, queued_at=800.0, updated_at=900.0)
    return base.model_copy(update={"status": status, **held, **fields})


ACTIONS: dict[str, tuple[Callable[[JobRecord, float], Change | None], dict[str, str]]] = {
    # action: from -> to; every other status must refuse, or leave the record as it is
    "claim": (partial(state.claim, owner="w2", lease_seconds=60.0), {"queued": "starting"}),
    "renew": (partial(state.renew, fence=1, lease_seconds=60.0), {s: s for s in LEASED}),
    "report": (
        partial(state.report_progress, fence=1, progress=Progress(step=5)),
        {"starting": "running", "running": "running", "pausing": "pausing", "cancelling": "cancelling"},
    ),
    "succeed": (partial(state.finish, fence=1, status="succeeded"), dict.fromkeys(LEASED, "succeeded")),
    "fail": (partial(state.finish, fence=1, status="failed", reason="code_error"), dict.fromkeys(LEASED, "failed")),
    "end cancelled": (partial(state.finish, fence=1, status="cancelled"), dict.fromkeys(LEASED, "cancelled")),
    "end paused": (
        partial(state.finish, fence=1, status="paused"),
        dict.fromkeys(("starting", "running", "pausing"), "paused"),
    ),
    "lose": (partial(state.lose, fence=1, message="gone"), {"starting": "queued", "running": "queued"}),
    "hand back": (partial(state.hand_back, fence=1, message="drain"), {"starting": "queued", "running": "queued"}),
    "cancel": (
        state.cancel,
        {
            "queued": "cancelled",
            "paused": "cancelled",
            "starting": "cancelling",
            "running": "cancelling",
            "pausing": "cancelling",
        },
    ),
    "explain": (partial(state.explain_queue, reason="no_worker_fits"), {"queued": "queued"}),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_from_every_status(action: str, status: str) -> None:
    decide, allowed = ACTIONS[action]
    record = job(status)
    if status in allowed:
        change = decide(record, NOW)
        assert change is not None
        assert change.record.status == allowed[status]
        assert allowed[status] == status or allowed[status] in state.TRANSITIONS[status]
        assert (len(change.events) == 1) == (allowed[status] != status)
        assert all(e.at == NOW and e.data["status"] == allowed[status] for e in change.events)
    else:
        try:
            change = decide(record, NOW)
        except (IllegalTransition, StaleFence):
            change = None
        assert change is None
    assert record == job(status), "decisions are pure"


def test_the_table_names_every_status_and_terminal_ones_lead_nowhere() -> None:
    assert set(state.TRANSITIONS) == set(STATUSES)
    for status, targets in state.TRANSITIONS.items():
        assert targets <= set(STATUSES)
        assert (not targets) == (status in TERMINAL)
    assert {s for s in STATUSES if "cancelling" in state.TRANSITIONS[s] or "cancelled" in state.TRANSITIONS[s]} == (
        set(STATUSES) - TERMINAL
    ), "cancel works from every status that is not terminal"


@pytest.mark.parametrize("to", STATUSES)
@pytest.mark.parametrize("status", STATUSES)
def test_the_one_door_holds_the_whole_table(status: str, to: Any) -> None:
    allowed = to == status or to in state.TRANSITIONS[status]
    if allowed:
        new = state._move(job(status), to, NOW, action="move").record
        assert new.status == to
        if to not in LEASED:
            assert (new.owner, new.lease_expires_at, new.stop_requested, new.stalled) == (None, None, None, False)
        assert (new.ended_at is not None) == (to in TERMINAL)
    else:
        with pytest.raises(IllegalTransition, match=status):
            state._move(job(status), to, NOW, action="move")


@pytest.mark.parametrize("action", ["renew", "report", "succeed", "lose", "hand back"])
@pytest.mark.parametrize("fence", [0, 2])
def test_a_stale_fence_is_refused(action: str, fence: int) -> None:
    decide = ACTIONS[action][0]
    with pytest.raises(StaleFence) as caught:
        decide(job("running", fence=fence), NOW)
    assert (caught.value.fence, caught.value.current) == (1, fence)
    assert isinstance(caught.value, JobError)


class TestClaim:
    def test_takes_the_job_with_a_new_fence(self) -> None:
        lost = job(
            "queued", attempt=1, fence=1, status_reason="worker_lost", queue_reason="x", progress=Progress(step=9)
        )
        change = state.claim(lost, NOW, owner="w2", lease_seconds=60.0)
        assert change is not None
        new = change.record
        assert (new.attempt, new.fence, new.owner) == (2, 2, "w2")
        assert (new.lease_expires_at, new.last_heartbeat_at, new.started_at) == (1060.0, NOW, NOW)
        assert (new.status_reason, new.queue_reason, new.progress) == (None, None, Progress())

    def test_a_job_that_is_held_back_is_left_alone_until_then(self) -> None:
        held = job("queued", not_before=NOW + 10)
        assert state.claim(held, NOW + 9, owner="w2", lease_seconds=60.0) is None
        change = state.claim(held, NOW + 10, owner="w2", lease_seconds=60.0)
        assert change is not None
        assert change.record.not_before is None

    def test_a_hold_does_not_outlast_a_clock_that_was_set_back(self) -> None:
        held = state.hand_back(job("starting"), NOW, fence=1, message="disk", hold_seconds=30.0).record
        assert held.held_back(NOW + 29)
        change = state.claim(held, NOW - 30 * DAY, owner="w2", lease_seconds=60.0)
        assert change is not None
        assert (change.record.not_before, change.record.held_since) == (None, None)


class TestEnds:
    def test_time_is_summed_over_attempts(self) -> None:
        new = state.finish(job("running", run_seconds=50.0), NOW, fence=1, status="succeeded", ran_seconds=100.0).record
        assert (new.run_seconds, new.attempt_seconds, new.ended_at) == (150.0, 0.0, NOW)

    @pytest.mark.parametrize("step", [30 * DAY, -30 * DAY])
    @pytest.mark.parametrize("action", ["finish", "lose", "hand back"])
    def test_a_step_of_the_clock_is_no_time_in_which_the_job_ran(self, action: str, step: float) -> None:
        ends: dict[str, Callable[..., Change]] = {
            "finish": partial(state.finish, status="failed"),
            "lose": state.lose,
            "hand back": state.hand_back,
        }
        end = partial(ends[action], fence=1, message="m")
        ran = end(job("running"), NOW + step, ran_seconds=10.0).record
        assert ran.run_seconds == 10.0
        told = state.renew(job("running"), NOW + step, fence=1, lease_seconds=60.0, ran_seconds=7.0).record
        lost = end(told, NOW + 2 * step).record
        assert lost.run_seconds == 7.0, "nobody is left who knows better than the last heartbeat"
        taken = state.claim(lost.model_copy(update={"status": "queued"}), NOW, owner="w", lease_seconds=60.0)
        assert taken is not None
        assert (taken.record.run_seconds, taken.record.attempt_seconds) == (7.0, 0.0)

    def test_a_job_that_runs_has_run_for_one_lease_at_most_since_its_last_heartbeat(self) -> None:
        told = state.renew(job("running", run_seconds=5.0), NOW, fence=1, lease_seconds=60.0, ran_seconds=7.0).record
        assert [told.running_seconds(NOW + s) for s in (0.0, 20.0, 30 * DAY, -30 * DAY)] == [12.0, 32.0, 72.0, 12.0]
        assert job("paused", run_seconds=5.0).running_seconds(NOW) == 5.0

    def test_waiting_is_not_running(self) -> None:
        change = state.cancel(job("paused", run_seconds=50.0), NOW)
        assert change is not None
        assert change.record.run_seconds == 50.0

    def test_outcome_is_told(self) -> None:
        change = state.finish(
            job("running"), NOW, fence=1, status="failed", reason="gpu_oom", message="m", exit_code=1, summary={"a": 1}
        )
        assert change.events[0].type == "job.failed"
        assert change.events[0].data == {"status": "failed", "attempt": 1, "reason": "gpu_oom", "message": "m"}
        assert (change.record.exit_code, change.record.summary) == (1, {"a": 1})

    def test_summary_stays_without_a_new_one(self) -> None:
        new = state.finish(job("running", summary={"a": 1}), NOW, fence=1, status="succeeded").record
        assert new.summary == {"a": 1}


class TestLose:
    def test_goes_back_to_the_queue_at_its_old_place(self) -> None:
        change = state.lose(job("running"), NOW, fence=1, message="gone")
        assert (change.record.status, change.record.status_reason) == ("queued", "worker_lost")
        assert change.record.queued_at == 800.0
        assert change.events[0].type == "job.recovered"

    def test_the_last_attempt_fails(self) -> None:
        new = state.lose(job("running", attempt=2), NOW, fence=1, message="gone").record
        assert (new.status, new.status_reason) == ("failed", "retries_exhausted")
        assert new.status_message == "gone; attempt 2 of 2 was the last"

    @pytest.mark.parametrize(("attempt", "status"), [(1, "queued"), (2, "failed")])
    def test_a_reason_that_is_known_is_shown(self, attempt: int, status: str) -> None:
        lost = job("running", attempt=attempt)
        new = state.lose(lost, NOW, fence=1, message="no space", reason="storage_full").record
        assert (new.status, new.status_reason) == (status, "storage_full")

    @pytest.mark.parametrize(
        ("order", "status", "end"), [("cancel", "cancelling", "cancelled"), ("pause", "pausing", "paused")]
    )
    def test_what_the_user_asked_for_wins(self, order: str, status: str, end: str) -> None:
        new = state.lose(job(status, stop_requested=order), NOW, fence=1, message="gone").record
        assert (new.status, new.status_reason) == (end, "user_request")


class TestReap:
    @pytest.mark.parametrize("status", STATUSES)
    def test_only_expired_leases(self, status: str) -> None:
        assert state.reap(job(status), NOW) is None
        stop = {"cancelling": "cancel", "pausing": "pause"}.get(status)
        expired = job(status, stop_requested=stop)
        assert (state.reap(expired, 1100.0) is not None) == (status in LEASED)

    def test_a_lease_does_not_outlast_a_clock_that_was_set_back(self) -> None:
        held = job("running")  # from 990 to 1100
        assert state.reap(held, 881.0) is None, "less than a lease: it runs out soon"
        change = state.reap(held, 879.0)
        assert change is not None
        assert change.record.status_message == "worker w1 sent no heartbeat since the store's clock was set back"

    def test_names_the_worker_and_the_silence(self) -> None:
        change = state.reap(job("running"), 1110.0)
        assert change is not None
        assert change.record.status_message == "worker w1 sent no heartbeat for 120 s"


class TestOthers:
    def test_a_drained_attempt_does_not_count(self) -> None:
        change = state.hand_back(job("running"), NOW, fence=1, message="drain", ran_seconds=100.0)
        assert (change.record.attempt, change.record.fence) == (0, 1)
        assert change.events[0].type == "job.requeued"
        assert (change.record.not_before, change.record.run_seconds) == (None, 100.0)
        assert change.record.status_reason is None
        full = state.hand_back(job("running"), NOW, fence=1, message="drain", reason="storage_full").record
        assert (full.status, full.status_reason) == ("queued", "storage_full")

    def test_an_attempt_that_never_began_holds_the_job_back_and_its_time_does_not_count(self) -> None:
        ran = job("starting", run_seconds=50.0)
        change = state.hand_back(ran, NOW, fence=1, message="disk", hold_seconds=30.0)
        assert (change.record.attempt, change.record.run_seconds) == (0, 50.0)
        assert (change.record.not_before, change.record.status_message) == (NOW + 30, "disk")
        assert change.record.held_since == NOW

    @pytest.mark.parametrize("status", ["cancelled", "cancelling"])
    def test_cancel_twice_is_no_change(self, status: str) -> None:
        assert state.cancel(job(status), NOW) is None

    @pytest.mark.parametrize("status", ["succeeded", "failed"])
    def test_cancel_after_the_end_is_illegal(self, status: str) -> None:
        with pytest.raises(IllegalTransition):
            state.cancel(job(status), NOW)

    def test_cancel_leaves_an_order_for_the_runner(self) -> None:
        change = state.cancel(job("running"), NOW)
        assert change is not None
        assert (change.record.stop_requested, change.record.owner) == ("cancel", "w1")

    def test_explaining_the_same_again_is_no_change(self) -> None:
        assert state.explain_queue(job("queued", queue_reason="x"), NOW, reason="x") is None
        change = state.explain_queue(job("queued", queue_reason="x"), NOW, reason=None)
        assert change is not None
        assert (change.record.queue_reason, change.events) == (None, ())

    def test_first_report_starts_the_run(self) -> None:
        change = state.report_progress(job("starting"), NOW, fence=1, progress=Progress(step=1))
        assert [e.type for e in change.events] == ["job.running"]
        assert change.record.progress.step == 1
        assert change.record.started_at == 900.0
