"""How records, documents and event ids look inside a store; the same for every implementation."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from workers.jobs.errors import Problem, RecordUnreadable, SpecInvalid
from workers.jobs.record import Command, Event, JobRecord, WorkerInfo

_log = logging.getLogger(__name__)
_EVENT_ID = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")


def write_record(record: JobRecord) -> str:
    """The record as JSON, read back before anybody stores it: one that cannot be read would stop all who meet it.

    Raises:
        RecordUnreadable: it could not be read again.
    """
    try:
        text = record.model_dump_json()
    except ValueError as error:  # nested too deep, say
        raise RecordUnreadable(record.id, str(error)) from error
    read_record(record.id, text)
    return text


def write_new_record(record: JobRecord) -> str:
    """:func:`write_record` of a record that was just made, at whose fault only its spec can be.

    Raises:
        SpecInvalid: it could not be read again.
    """
    try:
        return write_record(record)
    except RecordUnreadable as error:
        text = f"it cannot be stored so that it can be read again ({error.why})"
        raise SpecInvalid([Problem("", text, "NOT_STORABLE")]) from error


def read_record(job_id: str, text: str) -> JobRecord:
    """The inverse of :func:`write_record`.

    Raises:
        RecordUnreadable: with the first fault found.
    """
    try:
        return JobRecord.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise RecordUnreadable(job_id, f"{where}: {fault['msg']}" if where else fault["msg"]) from error


def record_or_none(job_id: str, text: str | None) -> JobRecord | None:
    """:func:`read_record`, or ``None`` where it cannot be read."""
    try:
        return None if text is None else read_record(job_id, text)
    except RecordUnreadable:
        return None


def read_records(texts: Iterable[tuple[str, str]]) -> list[JobRecord]:
    """Records of ``(job id, text)``, in that order; one that cannot be read is logged and left out."""
    found = []
    for job_id, text in texts:
        try:
            found.append(read_record(job_id, text))
        except RecordUnreadable as error:
            _log.warning("left out: %s", error)
    return found


def read_workers(texts: Iterable[str]) -> list[WorkerInfo]:
    """Workers of these texts, in that order; one of another version, say, is logged and left out: the others go on."""
    found = []
    for text in texts:
        try:
            found.append(WorkerInfo.model_validate_json(text))
        except ValidationError as error:
            _log.warning("left out a worker: %s", error.errors(include_url=False)[0])
    return found


def dumps(value: Any) -> str:
    """Compact JSON. NaN and infinities, which JSON does not know, become ``null``."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), separators=(",", ":"), allow_nan=False)


def finite(value: Any) -> Any:
    """The same JSON value with ``null`` for NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def parse_event_id(text: str) -> tuple[int, int]:
    """``"<ms>-<n>"`` or ``"<ms>"`` as two integers, in stream order.

    Raises:
        ValueError: it is neither.
    """
    match = _EVENT_ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no event id; use the id of an event, or 0 for the start")
    return int(match[1]), int(match[2] or 0)


def decision_step(decision: dict[str, Any]) -> int:
    """The step of a decision, which every decision must carry.

    Raises:
        ValueError: it carries none.
    """
    step = decision.get("step")
    if not isinstance(step, int):
        raise ValueError("a decision carries the step at which it takes effect")
    return step


def outcome_event(command: Command) -> Event:
    """The event that tells what became of a settled command."""
    data: dict[str, Any] = {
        "command_id": command_id(command.seq),
        "action": command.action,
        "step": command.applied_at_step,
    }
    data["units"] = None if command.units is None else list(command.units)
    if command.error is not None:
        data["error"] = command.error
    return Event(type=f"command.{command.state}", at=command.settled_at or command.at, data=data)


def command_id(seq: int) -> str:
    """``cmd_000001``: sorts by seq up to a million; beyond, the digits grow."""
    return f"cmd_{seq:06d}"
