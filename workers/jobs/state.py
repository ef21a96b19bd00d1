"""Every transition of a job's status, as pure functions on records. Nothing else assigns ``status``.

::

    queued -> starting -> running -> succeeded | failed
      |          |           |-> pausing -> paused -> queued
      |          |           |-> cancelling -> cancelled
      |          `-----------+-> queued (worker lost, attempts left) | failed (retries_exhausted)
      `-> cancelled

A terminal status never changes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from workers.jobs.errors import IllegalTransition, StaleFence
from workers.jobs.ports import Change
from workers.jobs.record import LEASED, TERMINAL, Event, JobRecord, Progress, Reason, Status

TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"starting", "cancelled", "failed", "paused"}),
    "starting": frozenset({"running", "queued", "cancelling", "pausing", "succeeded", "failed", "cancelled", "paused"}),
    "running": frozenset({"queued", "cancelling", "pausing", "succeeded", "failed", "cancelled", "paused"}),
    "pausing": frozenset({"paused", "cancelling", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "cancelling": frozenset({"cancelled", "succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def _move(
    record: JobRecord,
    to: Status,
    now: float,
    *,
    action: str,
    event: str | None = None,
    ran_seconds: float | None = None,
    **fields: Any,
) -> Change:
    """The one door for every change of status.

    ``ran_seconds``, of the attempt that ends, is its runner's: the store's clock may have been set meanwhile. Where no
    runner is left to tell, what its last heartbeat told counts.
    """
    if to != record.status and to not in TRANSITIONS[record.status]:
        raise IllegalTransition(record.id, record.status, action)
    if to in TERMINAL or to in ("queued", "paused"):
        ran = record.attempt_seconds if ran_seconds is None else ran_seconds
        fields |= {"run_seconds": record.run_seconds + ran, "attempt_seconds": 0.0}
        fields |= {"owner": None, "lease_expires_at": None, "stop_requested": None, "stalled": False}
    if to in TERMINAL:
        fields["ended_at"] = now
    fields = {"not_before": None, "held_since": None} | fields
    new = record.model_copy(update={"status": to, "updated_at": now, **fields})
    data: dict[str, Any] = {"status": to, "attempt": new.attempt}
    if new.status_reason:
        data["reason"] = new.status_reason
    if new.status_message:
        data["message"] = new.status_message
    return Change(new, (Event(type=event or f"job.{to}", at=now, data=data),))


def _fenced(record: JobRecord, fence: int) -> None:
    if record.fence != fence or record.status not in LEASED:
        raise StaleFence(record.id, fence, record.fence)


def claim(record: JobRecord, now: float, *, owner: str, lease_seconds: float) -> Change | None:
    """Take a queued job: fence + 1, attempt + 1, a lease. ``None`` when it is held back, or somebody was faster."""
    if record.status != "queued" or record.held_back(now):
        return None
    return _move(
        record,
        "starting",
        now,
        action="claim",
        attempt=record.attempt + 1,
        fence=record.fence + 1,
        owner=owner,
        lease_expires_at=now + lease_seconds,
        last_heartbeat_at=now,
        started_at=now,
        attempt_seconds=0.0,
        status_reason=None,
        status_message=None,
        queue_reason=None,
        progress=Progress(),
    )


def renew(
    record: JobRecord, now: float, *, fence: int, lease_seconds: float, ran_seconds: float | None = None
) -> Change:
    """Heartbeat of the runner: extend the lease, and tell how long the attempt has run. Raises StaleFence."""
    _fenced(record, fence)
    ran = record.attempt_seconds if ran_seconds is None else ran_seconds
    told = {"lease_expires_at": now + lease_seconds, "last_heartbeat_at": now, "attempt_seconds": ran}
    return Change(record.model_copy(update=told))


def report_progress(record: JobRecord, now: float, *, fence: int, progress: Progress) -> Change:
    """Progress of rank 0; the first report turns ``starting`` into ``running``. Raises StaleFence."""
    _fenced(record, fence)
    if record.status == "starting":
        return _move(record, "running", now, action="run", progress=progress)
    return Change(record.model_copy(update={"progress": progress, "updated_at": now}))


def finish(
    record: JobRecord,
    now: float,
    *,
    fence: int,
    status: Status,
    reason: Reason | None = None,
    message: str | None = None,
    exit_code: int | None = None,
    summary: dict[str, Any] | None = None,
    step: int | None = None,
    ran_seconds: float | None = None,
) -> Change:
    """The attempt's end as the runner saw it: succeeded, failed, cancelled or paused. Raises StaleFence.

    Args:
        step: the last one trained: rank 0's report, once a second, may have been earlier.
        ran_seconds: how long the attempt ran; ``None``: as long as the last heartbeat told.
    """
    _fenced(record, fence)
    told: dict[str, Any] = {} if step is None else {"step": max(step, record.progress.step), "eta_seconds": None}
    if status == "succeeded":
        told |= {"ratio": 1.0, "eta_seconds": None}
    return _move(
        record,
        status,
        now,
        action="finish",
        ran_seconds=ran_seconds,
        status_reason=reason,
        status_message=message,
        exit_code=exit_code,
        summary=summary if summary is not None else record.summary,
        progress=record.progress.model_copy(update=told),
    )


def lose(
    record: JobRecord,
    now: float,
    *,
    fence: int,
    message: str,
    reason: Reason | None = None,
    ran_seconds: float | None = None,
) -> Change:
    """The attempt died under its worker: queue again while attempts are left.

    Args:
        reason: what is shown in place of ``worker_lost`` and ``retries_exhausted``.
        ran_seconds: how long the attempt ran; ``None``: as long as the last heartbeat told.

    Raises:
        StaleFence.
    """
    _fenced(record, fence)
    move = partial(_move, record, now=now, action="recover", ran_seconds=ran_seconds)
    if record.stop_requested == "cancel":
        return move(to="cancelled", status_reason="user_request", status_message=message)
    if record.stop_requested == "pause":
        return move(to="paused", status_reason="user_request", status_message=message)
    if record.attempt >= record.spec.max_attempts:
        text = f"{message}; attempt {record.attempt} of {record.spec.max_attempts} was the last"
        return move(to="failed", status_reason=reason or "retries_exhausted", status_message=text)
    return move(to="queued", event="job.recovered", status_reason=reason or "worker_lost", status_message=message)


def lease_over(record: JobRecord, now: float) -> bool:
    """Whether the lease has run out. So has one that is given by a clock which was set back by more than a lease since:
    its runner would have renewed it by now, and it would last for as long as that step."""
    expires, beat = record.lease_expires_at, record.last_heartbeat_at
    if record.status not in LEASED or expires is None:
        return False
    return expires <= now or (beat is not None and now + (expires - beat) < beat)


def reap(record: JobRecord, now: float) -> Change | None:
    """Judge a lease: ``None`` while it holds."""
    if not lease_over(record, now):
        return None
    silent = now - (record.last_heartbeat_at or now)
    since = f"for {silent:.0f} s" if silent >= 0 else "since the store's clock was set back"
    return lose(record, now, fence=record.fence, message=f"worker {record.owner} sent no heartbeat {since}")


def hand_back(
    record: JobRecord,
    now: float,
    *,
    fence: int,
    message: str,
    reason: Reason | None = None,
    hold_seconds: float | None = None,
    ran_seconds: float | None = None,
) -> Change:
    """The worker gives the job back, for a reason that is not the job's; this attempt does not count.

    Args:
        hold_seconds: the attempt never began: its time does not count either, and nobody takes the job for so long.
        ran_seconds: how long the attempt ran; ``None``: as long as the last heartbeat told.

    Raises:
        StaleFence.
    """
    _fenced(record, fence)
    held: dict[str, Any] = {}
    if hold_seconds is not None:
        held, ran_seconds = {"not_before": now + hold_seconds, "held_since": now}, 0.0
    return _move(
        record,
        "queued",
        now,
        action="hand back",
        event="job.requeued",
        attempt=record.attempt - 1,
        status_reason=reason,
        status_message=message,
        ran_seconds=ran_seconds,
        **held,
    )


def cancel(record: JobRecord, now: float) -> Change | None:
    """Ask for the end, from every status. ``None`` when it is already cancelled or cancelling.

    Raises:
        IllegalTransition: the job succeeded or failed.
    """
    if record.status in ("cancelled", "cancelling"):
        return None
    if record.status in ("queued", "paused"):
        return _move(
            record,
            "cancelled",
            now,
            action="cancel",
            status_reason="user_request",
            status_message="cancelled by user",
        )
    return _move(record, "cancelling", now, action="cancel", stop_requested="cancel", status_reason="user_request")


def explain_queue(record: JobRecord, now: float, *, reason: str | None) -> Change | None:
    """Say why a queued job waits (``no_worker_fits: ...``)."""
    if record.status != "queued" or record.queue_reason == reason:
        return None
    return Change(record.model_copy(update={"queue_reason": reason, "updated_at": now}))


def mark_stalled(record: JobRecord, now: float, *, stalled: bool) -> Change | None:
    """Say that a running job makes no progress, or that it goes on again. ``None`` when that is known."""
    if record.status not in LEASED or record.stalled == stalled:
        return None
    event = Event(type="job.stalled" if stalled else "job.moving", at=now, data={"attempt": record.attempt})
    return Change(record.model_copy(update={"stalled": stalled, "updated_at": now}), (event,))


def may_delete(job_id: str, status: str, *, readable: bool) -> None:
    """Only what has ended can be deleted, and what nobody can read: it can never end. Raises IllegalTransition."""
    if readable and status not in TERMINAL:
        first = "" if status == "cancelling" else "cancel it first, and "
        raise IllegalTransition(job_id, status, "delete", f"{first}delete it when it has ended")


def still_needed(job_id: str, status: str, other: str, its_status: str) -> IllegalTransition:
    """The weights of the job are the start of another one that has not ended: it could not begin, or begin again."""
    advice = f"job {other}, which is {its_status}, starts from its weights; delete it when that one has ended"
    return IllegalTransition(job_id, status, "delete", advice)
