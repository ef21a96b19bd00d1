"""Bodies of the answers. Times are RFC 3339 UTC in ``*_at``; units of measure are in the names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator

from workers.jobs.record import CommandAction, Progress, Reason, Status
from workers.jobs.spec import JobSpec


def rfc3339(unix_seconds: float) -> str:
    """``2026-01-02T03:04:05.678Z``."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[float, PlainSerializer(rfc3339, return_type=str)]
"""Unix seconds inside, RFC 3339 UTC outside."""

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list. Ask for the next one with ``after=<last_id>`` while ``has_more``."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class QueueView(BaseModel):
    """Where a queued job stands, and why it waits."""

    position: int | None = Field(None, description="1 is next; null beyond the first thousand.")
    reason: str | None = None


class Durations(BaseModel):
    queued_seconds: float
    running_seconds: float
    paused_seconds: float


class JobView(BaseModel):
    """A job as the API shows it."""

    object: Literal["job"] = "job"
    id: str
    name: str
    status: Status
    status_reason: Reason | None
    status_message: str | None
    exit_code: int | None
    attempt: int
    max_attempts: int
    worker_id: str | None
    last_heartbeat_at: Time | None
    stalled: bool
    stop_requested: Literal["cancel", "pause"] | None
    queue: QueueView | None = Field(description="Only while queued.")
    progress: Progress
    durations: Durations
    summary: dict[str, Any] = Field(description="The finished job's report in short.")
    metadata: dict[str, str]
    spec: JobSpec
    created_at: Time
    queued_at: Time
    started_at: Time | None
    ended_at: Time | None
    updated_at: Time


class ValidationView(BaseModel):
    """Answer to ``?validate_only=true``: nothing was written."""

    object: Literal["validation"] = "validation"
    valid: Literal[True] = True
    spec: JobSpec = Field(description="The spec with every default filled in.")


class EventView(BaseModel):
    object: Literal["event"] = "event"
    id: str
    job_id: str
    type: str
    at: Time
    data: dict[str, Any]


class UnitView(BaseModel, extra="allow"):
    """One freezable unit. What the trainer adds beyond these fields is shown as it is."""

    name: str
    index: int = 0
    block: str | int | None = None
    state: str = Field("active", description="active | candidate | frozen | thawed | pinned")
    probability: float | None = None
    frozen_at_step: int | None = None
    parameters: int = 0
    flops: float = 0
    window_filled: float = 0


class Savings(BaseModel):
    """Measured and estimated savings, never mixed."""

    measured: dict[str, Any] = Field(default_factory=dict)
    estimated: dict[str, Any] = Field(default_factory=dict)


class CacheView(BaseModel, extra="allow"):
    """The forward cache of rank 0. What it adds beyond these fields is shown as it is."""

    state: str = Field(description="off | waiting | refused | trial | on")
    reason: str | None = Field(None, description="Why it is in that state.")


class FreezeView(BaseModel, extra="allow"):
    """What is frozen now. Before the first report of an attempt ``units`` is empty."""

    object: Literal["freeze_status"] = "freeze_status"
    job_id: str
    status: Status
    attempt: int
    step: int = 0
    plan_seq: int = 0
    plan_hash: str | None = None
    policy: str | None = None
    mode: str | None = None
    units: list[UnitView] = Field(default_factory=list)
    savings: Savings = Savings()
    next_stage_at_step: int | None = None
    cache: CacheView | None = None
    updated_at: str | None = None


class DecisionView(BaseModel, extra="allow"):
    """One entry of the decision stream, with what the policy noted beside it."""

    object: Literal["freeze_decision"] = "freeze_decision"
    seq: int
    step: int
    fence: int
    superseded: bool = False
    cause: str | None = Field(None, description="policy | lr_drop | lr_restart | validation | command")
    at: str | None = None


class CommandBody(BaseModel):
    """An order about what is frozen."""

    model_config = ConfigDict(extra="forbid")

    action: CommandAction = Field(
        description="pin: never freeze these units, whatever the policy says; unpin: undo it."
    )
    units: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=512)]], Field(min_length=1, max_length=1000)
        ]
        | None
    ) = Field(None, description="Names as /v1/jobs/{id}/freeze shows them; null with thaw: everything that is frozen.")

    @model_validator(mode="after")
    def _units_are_named(self) -> Self:
        if self.units is None and self.action != "thaw":
            raise ValueError(f"{self.action} needs units; only thaw does without, and then thaws everything")
        return self


class CommandView(BaseModel):
    """A freeze command and what became of it."""

    object: Literal["freeze_command"] = "freeze_command"
    id: str
    job_id: str
    action: CommandAction
    units: list[str] | None
    state: Literal["pending", "applied", "refused"]
    applied_at_step: int | None = Field(
        description="Completed steps when it took effect, on all ranks, or was refused."
    )
    error: str | None = Field(description="Why it was refused.")
    created_at: Time
    settled_at: Time | None


class Series(BaseModel):
    """One metric over optimizer steps, as columns of equal length. A value that is not finite is null."""

    name: str
    steps: list[int]
    values: list[float | None]
    points: int = Field(description="Points before downsampling.")


class MetricsView(BaseModel):
    object: Literal["metrics"] = "metrics"
    job_id: str
    series: list[Series]


class LogView(BaseModel):
    """A piece of one rank's log. Follow it with ``after=<next_after>`` and the same attempt."""

    object: Literal["log"] = "log"
    job_id: str
    attempt: int | None = Field(description="Number of the attempt's folder; null before the first.")
    attempts: list[int]
    rank: int
    ranks: list[int]
    offset: int = Field(description="Byte at which the content starts.")
    next_after: int = Field(description="Byte at which to go on.")
    size_bytes: int
    content: str


class ArtifactView(BaseModel):
    object: Literal["artifact"] = "artifact"
    path: str
    size_bytes: int
    modified_at: Time
    url: str


class TrajectoryPoint(BaseModel):
    """One snapshot: moments of the sampled weights, and their root mean square distance from the first snapshot."""

    step: int
    samples: int
    mean: float
    std: float
    drift: float
    values: list[float] | None = Field(None, description="The sampled weights, with ?values=true.")


class TrajectoryView(BaseModel):
    object: Literal["trajectory"] = "trajectory"
    job_id: str
    unit: str
    window: list[TrajectoryPoint]


class CatalogEntry(BaseModel, extra="allow"):
    """A model, data set or policy by name; ``schema`` is the JSON Schema of its options."""

    object: str
    name: str
    description: str = ""


class WorkerView(BaseModel):
    object: Literal["worker"] = "worker"
    id: str
    host: str
    pid: int
    state: Literal["idle", "busy", "draining", "blocked"]
    trouble: str | None
    devices: list[str]
    max_processes: int
    job_id: str | None
    started_at: Time
    last_heartbeat_at: Time


class QueuesView(BaseModel):
    object: Literal["queue"] = "queue"
    name: str = "default"
    depth: int
    oldest_age_seconds: float | None
    workers: int
    hint: str | None = None


class VersionView(BaseModel):
    object: Literal["version"] = "version"
    version: str
    api_version: Literal["v1"] = "v1"
    python_version: str


class Health(BaseModel):
    status: Literal["ok"] = "ok"
