"""The job record: the truth about a job. Times are Unix seconds (float) inside, RFC 3339 at the API's edge."""

from __future__ import annotations

import math
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workers.jobs.spec import JobSpec

Status = Literal["queued", "starting", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
LEASED: frozenset[str] = frozenset({"starting", "running", "pausing", "cancelling"})
"""Statuses in which a worker holds the job (``cancelling`` and ``pausing`` only while it has an owner)."""

Reason = Literal[
    "user_request",
    "worker_lost",
    "gpu_oom",
    "host_oom",
    "collective_timeout",
    "stalled",
    "max_duration_exceeded",
    "code_error",
    "config_invalid",
    "dataset_invalid",
    "storage_full",
    "retries_exhausted",
]


class Progress(BaseModel):
    """How far the job is; written by rank 0 about once a second."""

    model_config = ConfigDict(frozen=True)

    ratio: float = 0.0
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    eta_seconds: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    frozen_units: int = 0
    units: int = 0
    phase: str = "starting"
    """``starting | training | evaluating | saving``."""


class Event(BaseModel):
    """One entry of a job's event stream. ``id`` is set by the store."""

    model_config = ConfigDict(frozen=True)

    id: str = ""
    type: str
    at: float
    data: dict[str, Any] = Field(default_factory=dict)


CommandAction = Literal["freeze", "thaw", "pin", "unpin"]


class Command(BaseModel):
    """An order from outside about what is frozen. Its seq (1, 2, ... within the job) is given by the store."""

    model_config = ConfigDict(frozen=True)

    seq: int
    action: CommandAction
    units: tuple[str, ...] | None = None
    """``None``: everything (thaw only)."""
    at: float
    state: Literal["pending", "applied", "refused"] = "pending"
    applied_at_step: int | None = None
    """Completed optimizer steps when it took effect, or was refused."""
    error: str | None = None
    """Why it was refused."""
    settled_at: float | None = None


class JobRecord(BaseModel):
    """Everything the service knows about one job. Immutable; the store swaps it by ``version``."""

    model_config = ConfigDict(frozen=True)

    id: str
    version: int = 0
    spec: JobSpec
    status: Status = "queued"
    status_reason: Reason | None = None
    status_message: str | None = None
    queue_reason: str | None = None
    exit_code: int | None = None
    attempt: int = 0
    """Starts so far."""
    fence: int = 0
    """Grows with every claim; every write of an attempt carries it."""
    owner: str | None = None
    """Worker that holds the lease."""
    not_before: float | None = None
    """While queued: no worker takes the job before this moment, for the last one could not begin it."""
    held_since: float | None = None
    """When that was said."""
    lease_expires_at: float | None = None
    last_heartbeat_at: float | None = None
    stalled: bool = False
    stop_requested: Literal["cancel", "pause"] | None = None
    progress: Progress = Progress()
    summary: dict[str, Any] = Field(default_factory=dict)
    """The finished job's report in short: accuracy, frozen_units, flops_ratio ..."""
    created_at: float
    queued_at: float
    started_at: float | None = None
    ended_at: float | None = None
    run_seconds: float = 0.0
    """Seconds in earlier attempts, each by the clock of its runner, which no step of the store's clock moves."""
    attempt_seconds: float = 0.0
    """Seconds of the attempt in flight by the same clock, as the last heartbeat told."""
    updated_at: float

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    def held_back(self, now: float) -> bool:
        """Whether no worker may take it yet, though it is queued. Not by a clock that was set back to before the hold
        was given: it would last for as long as that step."""
        return self.not_before is not None and (self.held_since or 0.0) <= now < self.not_before

    def running_seconds(self, now: float) -> float:
        """Seconds in attempts until now. Beyond the last heartbeat a lease's length counts at most."""
        if self.status not in LEASED or self.last_heartbeat_at is None or self.lease_expires_at is None:
            return self.run_seconds
        since = min(now, self.lease_expires_at) - self.last_heartbeat_at
        return self.run_seconds + self.attempt_seconds + max(0.0, since)


class WorkerInfo(BaseModel):
    """What a worker says of itself; expires when it is not renewed."""

    model_config = ConfigDict(frozen=True)

    id: str
    host: str
    pid: int
    state: Literal["idle", "busy", "draining", "blocked"] = "idle"
    trouble: str | None = None
    """Why it claims nothing, when it is blocked."""
    devices: list[str] = Field(default_factory=list)
    """``["cpu"]`` or ``["cuda:0", ...]``."""
    max_processes: int = 1
    job_id: str | None = None
    started_at: float
    heartbeat_at: float


def new_job_id(now: float | None = None) -> str:
    """``job_`` + 11 hex digits of milliseconds + 10 random hex digits: sorts by time of creation."""
    millis = int((time.time() if now is None else now) * 1000)
    return f"job_{millis:011x}{secrets.token_hex(5)}"


_BAND = 1e11
"""Scores of one priority: more seconds than any Unix time has."""


def queue_score(record: JobRecord) -> float:
    """Order in the queue: higher priority first, then earlier submission. Smaller runs first."""
    return -record.spec.priority * _BAND + record.queued_at


def of_queue_score(score: float) -> tuple[int, float]:
    """The priority and ``queued_at`` (to about 2 ms) that a score stands for: inverse of :func:`queue_score`."""
    priority = -math.floor(score / _BAND)
    return priority, score + priority * _BAND


def next_priority_score(priority: int) -> float:
    """Where the scores of lower priorities begin."""
    return (1 - priority) * _BAND
