"""Kernel objects as bodies of answers. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic_core import to_json

from api.schemas import (
    CommandView,
    DecisionView,
    Durations,
    EventView,
    FreezeView,
    JobView,
    Page,
    QueuesView,
    QueueView,
    WorkerView,
    rfc3339,
)
from workers.jobs.codec import command_id
from workers.jobs.record import Command, Event, JobRecord, WorkerInfo

V = TypeVar("V")


def job_view(record: JobRecord, now: float, position: int | None = None) -> JobView:
    """A record as the API shows it. ``position`` is its place in the queue, 1 first."""
    queued = record.status == "queued"
    return JobView(
        **record.model_dump(include=JobView.model_fields.keys() & JobRecord.model_fields.keys() - {"spec", "progress"}),
        name=record.spec.name,
        max_attempts=record.spec.max_attempts,
        worker_id=record.owner,
        metadata=record.spec.metadata,
        spec=record.spec,
        progress=record.progress,
        queue=QueueView(position=position, reason=record.queue_reason) if queued else None,
        durations=durations(record, now),
    )


def durations(record: JobRecord, now: float) -> Durations:
    """Time in the queue and in attempts, earlier attempts included. Time paused is not kept yet: 0."""
    total = max(0.0, (record.ended_at or now) - record.created_at)
    running = record.running_seconds(now)
    return Durations(queued_seconds=max(0.0, total - running), running_seconds=running, paused_seconds=0.0)


def job_etag(record: JobRecord, position: int | None) -> str:
    """Weak: two bodies under it may differ in the durations, which pass with time."""
    return f'W/"{record.version}-{position or 0}"'


def content_etag(body: Any) -> str:
    """Strong, from the body itself."""
    return f'"{hashlib.sha256(to_json(body, inf_nan_mode="null")).hexdigest()[:32]}"'


def matches_etag(header: str | None, etag: str) -> bool:
    """Weak comparison of ``If-None-Match`` (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    offered = [part.strip().removeprefix("W/") for part in header.split(",")]
    return "*" in offered or etag.removeprefix("W/") in offered


def event_view(job_id: str, event: Event) -> EventView:
    return EventView(id=event.id, job_id=job_id, type=event.type, at=event.at, data=event.data)


def freeze_view(record: JobRecord, stored: Mapping[str, Any] | None) -> FreezeView:
    """The freeze status document, in the same shape before and after the trainer's first report."""
    known = {"policy": record.spec.freeze.get("policy", "smartfrz"), "mode": record.spec.freeze.get("mode", "prefix")}
    if stored is not None:
        known |= {key: value for key, value in stored.items() if value is not None}
    known |= {"job_id": record.id, "status": record.status}
    known.setdefault("attempt", record.attempt)
    known.pop("object", None)
    return FreezeView.model_validate(_times(known))


def decision_view(decision: Mapping[str, Any]) -> DecisionView:
    return DecisionView.model_validate({k: v for k, v in _times(decision).items() if k != "object"})


def command_view(record: JobRecord, command: Command) -> CommandView:
    """What still waits when the job has ended is refused."""
    known = command.model_dump(include={"action", "units", "state", "applied_at_step", "error", "settled_at"})
    if record.terminal and command.state == "pending":
        known |= {"state": "refused", "error": "the job ended first", "settled_at": record.ended_at}
    return CommandView(id=command_id(command.seq), job_id=record.id, created_at=command.at, **known)


def _times(document: Mapping[str, Any]) -> dict[str, Any]:
    """Unix seconds in ``at`` and ``*_at`` as RFC 3339."""
    out: dict[str, Any] = {}
    for key, value in document.items():
        is_time = (key == "at" or key.endswith("_at")) and isinstance(value, int | float)
        out[key] = rfc3339(value) if is_time else value
    return out


def worker_view(worker: WorkerInfo) -> WorkerView:
    return WorkerView(**worker.model_dump(exclude={"heartbeat_at"}), last_heartbeat_at=worker.heartbeat_at)


def queues_view(oldest: float | None, depth: int, workers: Sequence[WorkerInfo], now: float) -> QueuesView:
    """The queue in figures, with a hint when nothing will move it. ``oldest``: when its oldest job was queued."""
    age = None if oldest is None else max(0.0, now - oldest)
    hint = None
    if depth and not workers:
        hint = "Jobs are queued, but no worker is alive: start one with `smartfrz up`, or scale the workers."
    elif depth and all(worker.state == "draining" for worker in workers):
        hint = "Jobs are queued, but every worker is draining."
    elif depth and all(worker.state == "blocked" for worker in workers):
        hint = f"Jobs are queued, but every worker is in trouble. {workers[0].host}: {workers[0].trouble}"
    return QueuesView(depth=depth, oldest_age_seconds=age, workers=len(workers), hint=hint)


def page(items: Iterable[V], key: Callable[[V], str], *, has_more: bool = False) -> Page[V]:
    """The list envelope."""
    data = list(items)
    first, last = (key(data[0]), key(data[-1])) if data else (None, None)
    return Page(data=data, first_id=first, last_id=last, has_more=has_more)
