"""What the job store says to Redis and what it hears, in Python's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers.jobs.codec import dumps, read_record
from workers.jobs.errors import JobNotFound
from workers.jobs.record import Event, JobRecord


def stored_record(job_id: str, text: str | None) -> JobRecord:
    """Raises JobNotFound, RecordUnreadable."""
    if text is None:
        raise JobNotFound(job_id)
    return read_record(job_id, text)


def event_args(events: Sequence[Event]) -> tuple[str, ...]:
    """Type, time and data of each, as the scripts take them."""
    return tuple(part for event in events for part in (event.type, repr(event.at), dumps(event.data)))


def tally_args(amounts: Mapping[str, float]) -> tuple[str, ...]:
    """Name and amount of each total of :mod:`workers.jobs.tally`."""
    return tuple(part for name, amount in amounts.items() for part in (name, repr(amount)))


def read_events(entries: Any) -> list[Event]:
    """Entries of a stream, as XRANGE and XREAD give them."""
    return [
        Event(id=entry_id, type=fields["type"], at=float(fields["at"]), data=json.loads(fields["data"]))
        for entry_id, fields in entries or ()
    ]


def unix_time(reply: Any) -> float:
    """Of the reply to TIME."""
    seconds, micros = reply
    return int(seconds) + int(micros) / 1e6


def millis(seconds: float) -> int:
    """For PX, which takes no zero."""
    return max(1, round(seconds * 1000))
