"""How an attempt ended, judged from what it left behind: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.guardian import LOCKED
from workers.jobs.layout import Result
from workers.jobs.record import Reason, Status

Order = Literal["cancel", "pause", "drain", "max_duration"]
"""Why the runner asked the ranks to stop."""

TRANSIENT: frozenset[Reason] = frozenset({"worker_lost", "collective_timeout", "stalled"})
"""Failures that another attempt may not meet. All others would come again, and are not retried."""

TAIL_LINES, TAIL_CHARACTERS = 20, 2000

_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(?P<rank>\d+).*?exitcode\s*:\s*(?P<code>-?\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attempt left behind.

    Args:
        result: ``result.json``, if any.
        exit_code: the guardian's; negative: it was itself killed by a signal.
        logs: end of each rank's log.
        torchrun: end of torchrun's own log.
        order: what the runner had asked for.
        oom_kills: processes that the kernel killed for memory in this cgroup during the attempt.
    """

    result: Result | None = None
    exit_code: int = 0
    logs: Mapping[int, str] = field(default_factory=dict)
    torchrun: str = ""
    order: Order | None = None
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write into the record: which of ``state.finish``, ``state.lose``, ``state.hand_back``, and with what."""

    kind: Literal["finish", "lose", "hand_back"]
    message: str | None = None
    status: Status = "failed"
    reason: Reason | None = None
    summary: dict[str, Any] | None = None


def tail(text: str) -> str:
    """The last lines, bounded in number and length."""
    return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]


def root_cause(torchrun: str) -> tuple[int, int] | None:
    """(rank, exit code) of the rank that failed first, as torchrun saw it; a negative code is a signal."""
    found = _ROOT_CAUSE.search(torchrun)
    return (int(found["rank"]), int(found["code"])) if found else None


def judge(evidence: Evidence, *, max_duration_seconds: float | None = None) -> Outcome:
    """The outcome of an attempt.

    ``result.json`` is believed first, for torchrun exits with 1 on TERM whatever the ranks did. An order of the user
    comes next. A rank that was killed by a signal makes its peers fail with errors of their own: the kill is the cause.
    """
    result, order = evidence.result, evidence.order
    if result is not None and result.outcome == "succeeded":
        return Outcome("finish", result.message, "succeeded", None, result.summary)
    summary = result.summary if result is not None else None
    if order == "max_duration":
        text = f"ran longer than max_duration_seconds ({max_duration_seconds:g})" if max_duration_seconds else None
        return Outcome("finish", text, "failed", "max_duration_exceeded", summary)
    action = result.action if result is not None and result.outcome == "stopped" else order
    if action == "cancel":
        return Outcome("finish", "cancelled by user", "cancelled", "user_request", summary)
    if action is not None and (result is None or result.outcome == "stopped"):
        forced = "" if result is not None else "; the ranks did not stop in time and were ended"
        if action == "pause":
            return Outcome("finish", f"paused by user{forced}", "paused", "user_request", summary)
        return Outcome("hand_back", f"the worker is shutting down{forced}")
    return _failure(evidence, summary)


def _failure(evidence: Evidence, summary: dict[str, Any] | None) -> Outcome:
    result, cause = evidence.result, root_cause(evidence.torchrun)
    if evidence.oom_kills:
        text = "the kernel ended a process because memory ran out: use a smaller batch_size or fewer processes"
        return Outcome("finish", text, "failed", "host_oom", summary)
    if cause is not None and cause[1] < 0:
        return Outcome("lose", f"rank {cause[0]} was killed by signal {-cause[1]}")
    if result is not None and result.outcome == "failed":
        reason = result.reason or "code_error"
        if reason in TRANSIENT:
            return Outcome("lose", result.message or reason)
        message = result.message or reason
        if reason == "code_error":
            message = _with_log(message, evidence.logs.get(result.rank, ""))
        return Outcome("finish", message, "failed", reason, summary)
    if evidence.exit_code == LOCKED:
        return Outcome("lose", "an earlier attempt of this job is still being taken down")
    failing = cause[0] if cause is not None else _rank_with_traceback(evidence.logs)
    if failing is not None:
        text = _with_log(f"rank {failing} failed", evidence.logs.get(failing, ""))
        return Outcome("finish", text, "failed", "code_error", summary)
    if evidence.exit_code < 0:
        return Outcome("lose", f"the guardian was killed by signal {-evidence.exit_code}")
    text = f"the ranks ended without a result (exit code {evidence.exit_code})"
    return Outcome("lose", "\n".join(part for part in (text, tail(evidence.torchrun)) if part))


def _rank_with_traceback(logs: Mapping[int, str]) -> int | None:
    return next((rank for rank, text in sorted(logs.items()) if "Traceback (most recent call last)" in text), None)


def _with_log(message: str, log: str) -> str:
    end = tail(log)
    return f"{message}\n{end}" if end else message
