"""How an attempt ended, judged from what it left behind: pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.guardian import LOCKED
from workers.jobs import state
from workers.jobs.layout import Result
from workers.jobs.ports import Change
from workers.jobs.record import JobRecord, Reason, Status
from workers.training.main import OWNERSHIP_LOST, PEER_LOST, STORAGE_FAILED

Order = Literal["cancel", "pause", "drain", "max_duration"]
"""Why the runner asked the ranks to stop."""

TRANSIENT: frozenset[Reason] = frozenset({"worker_lost", "collective_timeout", "stalled", "storage_full"})
"""Failures that another attempt may not meet. All others would come again, and are not retried."""

TAIL_LINES, TAIL_CHARACTERS = 20, 2000

_FAILURE = re.compile(r"rank\s*:\s*(?P<rank>\d+) \(local_rank.*?exitcode\s*:\s*(?P<code>-?\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attempt left behind.

    Args:
        result: ``result.json``, if any.
        exit_code: the guardian's, which is torchrun's (128 + n: killed by signal n); negative: the guardian was killed.
        logs: end of each rank's log.
        torchrun: end of torchrun's own log, or of the guardian's when torchrun wrote none.
        order: what the runner had asked for.
        oom_kills: processes that the kernel killed for memory in this cgroup during the attempt: ours or others'.
    """

    result: Result | None = None
    exit_code: int = 0
    logs: Mapping[int, str] = field(default_factory=dict)
    torchrun: str = ""
    order: Order | None = None
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write into the record: which of ``state.finish``, ``state.lose``, ``state.hand_back``, and with what.

    ``lose`` and ``hand_back`` have a reason only where one is known that tells more than theirs.
    """

    kind: Literal["finish", "lose", "hand_back"]
    message: str | None = None
    status: Status = "failed"
    reason: Reason | None = None
    summary: dict[str, Any] | None = None
    step: int | None = None
    began: bool = True
    """``hand_back`` only: else the job is left alone for a while, so that its next try may fare better."""


def tail(text: str) -> str:
    """The last lines, bounded in number and length."""
    return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]


def failures(torchrun: str) -> list[tuple[int, int]]:
    """(rank, exit code) of the ranks that failed, the one that torchrun saw first in front; negative: a signal."""
    others, found, root = torchrun.rpartition("Root Cause")
    text = root + others.rpartition("Failures:")[2] if found else ""
    return [(int(match["rank"]), int(match["code"])) for match in _FAILURE.finditer(text)]


def judge(evidence: Evidence, *, max_duration_seconds: float | None = None) -> Outcome:
    """The outcome of an attempt.

    ``result.json`` is believed first, for torchrun exits with 1 on TERM whatever the ranks did. An order of the user
    comes next. A rank that was killed by a signal makes its peers fail with errors of their own: the kill is the cause.

    A disk that takes no more loses the attempt, not the job: it is queued again within its attempts, with the reason
    ``storage_full``, and no worker claims it where there is no room (``workers.fitness``). If the attempt was to end
    anyway, for a pause or a drain, that order holds, and the job goes on from its last good checkpoint.
    """
    result, order = evidence.result, evidence.order
    if result is not None and result.outcome == "succeeded":
        return Outcome("finish", result.message, "succeeded", None, result.summary, result.step)
    summary = result.summary if result is not None else None
    if order == "max_duration":
        text = f"ran longer than max_duration_seconds ({max_duration_seconds:g})" if max_duration_seconds else None
        return Outcome("finish", text, "failed", "max_duration_exceeded", summary)
    action = result.action if result is not None and result.outcome == "stopped" else order
    if action == "cancel":
        return Outcome("finish", "cancelled by user", "cancelled", "user_request", summary)
    if action is not None and (result is None or result.outcome == "stopped"):
        forced = "" if result is not None else "; the ranks did not stop in time and were ended"
        unsaved = f"; {result.message}" if result is not None and result.message else ""
        reason = result.reason if result is not None else None
        if action == "pause":
            text = f"paused by user{forced}{unsaved}"
            return Outcome("finish", text, "paused", reason or "user_request", summary)
        return Outcome("hand_back", f"the worker is shutting down{forced}{unsaved}", reason=reason)
    return _failure(evidence, summary)


def not_started(error: OSError) -> Outcome:
    """The outcome of an attempt whose files or processes could not be made: no fault of the job."""
    return Outcome("hand_back", f"the worker could not start the attempt: {error}", began=False)


def false_start(outcome: Outcome, steps: int) -> bool:
    """Whether an attempt ended before its first step in a way that may be its worker's fault."""
    return steps == 0 and outcome.kind == "lose"


def apply(
    seen: JobRecord,
    now: float,
    fence: int,
    outcome: Outcome,
    exit_code: int | None,
    *,
    hold_seconds: float = 0.0,
    ran_seconds: float | None = None,
) -> Change:
    """The change that an outcome means; a job that never began is held back for so long. Raises StaleFence."""
    message = outcome.message or ""
    if outcome.kind == "hand_back" and seen.stop_requested is None:
        return state.hand_back(
            seen,
            now,
            fence=fence,
            message=message,
            reason=outcome.reason,
            hold_seconds=None if outcome.began else hold_seconds,
            ran_seconds=ran_seconds,
        )
    if outcome.kind != "finish":  # a job given back: a user's order came meanwhile, and is the reason
        reason = outcome.reason if outcome.kind == "lose" else None
        return state.lose(seen, now, fence=fence, message=message, reason=reason, ran_seconds=ran_seconds)
    status = outcome.status
    if status == "paused" and seen.stop_requested == "cancel":
        status = "cancelled"  # cancel came after the ranks had stopped for the pause
    return state.finish(
        seen,
        now,
        fence=fence,
        status=status,
        reason=outcome.reason,
        message=outcome.message,
        exit_code=exit_code,
        summary=outcome.summary,
        step=outcome.step,
        ran_seconds=ran_seconds,
    )


def _failure(evidence: Evidence, summary: dict[str, Any] | None) -> Outcome:
    result, failed = evidence.result, failures(evidence.torchrun)
    reported = result if result is not None and result.outcome == "failed" else None
    killed, number = _killed(failed), None if failed else _fatal_signal(evidence.exit_code)
    rank_killed = killed is not None and killed[1] == signal.SIGKILL
    # Without a kill of our own, or with a rank that says why it failed, the memory was a neighbour's in the cgroup.
    if evidence.oom_kills and reported is None and (rank_killed or number == signal.SIGKILL):
        text = "the kernel ended a process because memory ran out: use a smaller batch_size or fewer processes"
        return Outcome("finish", text, "failed", "host_oom", summary)
    if reported is not None and not rank_killed:
        return _reported(reported, evidence, summary)
    if killed is not None:
        memory = ", and the kernel ended a process because memory ran out" if evidence.oom_kills and rank_killed else ""
        return Outcome("lose", f"rank {killed[0]} was killed by signal {killed[1]}{memory}")
    if evidence.exit_code == LOCKED:
        text = "an earlier attempt of this job still runs: its worker may have lost the store, not the job"
        return Outcome("hand_back", text, began=False)
    if number is not None:
        return Outcome(
            "lose", f"the {'guardian' if evidence.exit_code < 0 else 'launcher'} was killed by signal {number}"
        )
    unwritten = next((rank for rank, code in failed if code == STORAGE_FAILED), None)
    if unwritten is not None:
        text = f"rank {unwritten} could not write how it ended: free space under SMARTFRZ_HOME, or see to its disk"
        return Outcome("lose", text, reason="storage_full")
    culprit = next((rank for rank, code in failed if code > 0 and code not in (OWNERSHIP_LOST, PEER_LOST)), None)
    if culprit is None and not failed:
        culprit = _rank_with_traceback(evidence.logs)
    if culprit is not None:
        text = _with_log(f"rank {culprit} failed", evidence.logs.get(culprit, ""))
        return Outcome("finish", text, "failed", "code_error", summary)
    if failed:
        lost = "its peers" if failed[0][1] == PEER_LOST else "the job"
        return Outcome("lose", f"rank {failed[0][0]} lost {lost}")
    text = f"the ranks ended without a result (exit code {evidence.exit_code})"
    return Outcome("lose", "\n".join(part for part in (text, tail(evidence.torchrun)) if part))


def _fatal_signal(exit_code: int) -> int | None:
    """The signal that ended the guardian (negative code) or torchrun (128 + n)."""
    return -exit_code if exit_code < 0 else exit_code - 128 if exit_code > 128 else None


def _killed(failed: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(rank, signal) when a signal was the cause: torchrun lists the signals by which it ended the others, too."""
    if not failed or (failed[0][1] > 0 and failed[0][1] != PEER_LOST):
        return None
    return next(((rank, -code) for rank, code in failed if code < 0 and -code != signal.SIGTERM), None)


def _reported(result: Result, evidence: Evidence, summary: dict[str, Any] | None) -> Outcome:
    """A failure that a rank reported itself."""
    reason, log = result.reason or "code_error", evidence.logs.get(result.rank, "")
    message = result.message or reason
    if reason == "storage_full":
        return Outcome("hand_back" if evidence.order == "drain" else "lose", message, reason=reason)
    if reason in TRANSIENT:
        return Outcome("lose", message)
    return Outcome("finish", _with_log(message, log) if reason == "code_error" else message, "failed", reason, summary)


def _rank_with_traceback(logs: Mapping[int, str]) -> int | None:
    return next((rank for rank, text in sorted(logs.items()) if "Traceback (most recent call last)" in text), None)


def _with_log(message: str, log: str) -> str:
    end = tail(log)
    return f"{message}\n{end}" if end else message
