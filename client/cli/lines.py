"""Events and jobs as single lines for people. Pure."""

from __future__ import annotations

from datetime import datetime

from client.flows import Json
from client.sse import Event
from workers.jobs.record import TERMINAL


def event_line(event: Event) -> str:
    """``12:03:04 unit frozen      encoder.layer.0 ...``."""
    clock = datetime.fromisoformat(event.at).astimezone().strftime("%H:%M:%S") + " " if event.at else ""
    return f"{clock}{event.type:<18} {_tell(event)}".rstrip()


def _tell(event: Event) -> str:
    data = event.data
    match event.type:
        case "unit.frozen" | "unit.thawed":
            return frozen_words(data)
        case "command.applied" | "command.refused":
            named = ", ".join(data["units"]) if data.get("units") else "everything"
            refused = f": {data['error']}" if data.get("error") else ""
            return f"{data.get('action')} {named} at step {data.get('step')}{refused}"
        case "evaluation":
            parts = [f"step {data.get('step')}"]
            parts += [f"{name} {data[name]:.4f}" for name in ("accuracy", "loss") if _number(data.get(name))]
            return ", ".join(parts)
        case kind if kind.startswith("job."):
            words = [str(data.get("status", "")), str(data.get("reason", "")), str(data.get("message", ""))]
            return ": ".join(word for word in words if word)
        case _:
            return ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)


def frozen_words(data: Json) -> str:
    """``name (3 of 14) at step 40, probability 0.93``; the cause where it was not the policy."""
    text = str(data.get("unit", "?"))
    if data.get("index") is not None and data.get("of"):
        text += f" ({int(data['index']) + 1} of {data['of']})"
    text += f" at step {data.get('step')}"
    if _number(data.get("probability")):
        text += f", probability {data['probability']:.2f}"
    if data.get("cause") not in (None, "policy"):
        text += f", by {str(data['cause']).replace('_', ' ')}"
    return text


def cache_words(cache: Json) -> str:
    """``forward cache: refused: the blocks are not in sequence``."""
    text = f"forward cache: {cache.get('state')}"
    return f"{text}: {cache['reason']}" if cache.get("reason") else text


def status_line(job: Json) -> str:
    """Status with the reason, and where a running job stands."""
    text = str(job["status"])
    if job.get("status_reason"):
        text += f" ({job['status_reason']})"
    if job.get("status_message"):
        text += f": {job['status_message']}"
    if job["status"] == "queued" and (job.get("queue") or {}).get("reason"):
        text += f": {job['queue']['reason']}"
    return text


def progress_words(job: Json) -> str:
    """``step 40/114, loss 1.2345, 3/14 frozen, eta 1:20``, led by the phase where the status does not tell it."""
    progress = job.get("progress") or {}
    phase = progress.get("phase") or ""
    status = job.get("status")
    told = status in TERMINAL or phase in ("training", status)
    if not progress.get("total_steps"):
        return "" if told else str(phase)
    text = "" if told else f"{phase}: "
    text += f"step {progress['step']}/{progress['total_steps']}"
    if _number(progress.get("loss")):
        text += f", loss {progress['loss']:.4f}"
    if progress.get("units"):
        text += f", {progress['frozen_units']}/{progress['units']} frozen"
    if _number(progress.get("eta_seconds")):
        minutes, seconds = divmod(round(progress["eta_seconds"]), 60)
        text += f", eta {minutes}:{seconds:02}"
    return text


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
