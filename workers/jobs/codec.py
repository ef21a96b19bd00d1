"""How documents and event ids look inside a store; the same for every implementation."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from workers.jobs.record import Command, Event

_EVENT_ID = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")


def dumps(value: Any) -> str:
    """Compact JSON. NaN and infinities, which JSON does not know, become ``null``."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
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


def freeze_counts(decision: dict[str, Any]) -> dict[str, int]:
    """How many units a decision froze and thawed, by ``<policy>:<action>``; nothing where it names no policy."""
    policy, counts = decision.get("policy"), {"freeze": "frozen", "thaw": "thawed"}
    found = {f"{policy}:{action}": len(decision.get(units) or ()) for action, units in counts.items()}
    return {name: count for name, count in found.items() if count and policy}


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
