"""Server-sent events (WHATWG HTML, 9.2): an incremental parser, and the service's events. Pure, no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a job's event stream. ``at`` is RFC 3339 as the service wrote it."""

    id: str
    type: str
    at: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Event:
        """From an entry of the JSON list."""
        return cls(
            id=str(document.get("id") or ""),
            type=str(document["type"]),
            at=document.get("created_at") or document.get("at"),
            data=document.get("data") or {},
        )

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "created_at": self.at, "data": self.data}


@dataclass(frozen=True, slots=True)
class Message:
    """A dispatched SSE message, before its data is understood."""

    id: str
    type: str
    data: str


class SseParser:
    """Bytes in, messages out. Splits on CR, LF and CRLF only: ``str.splitlines`` would also cut at U+2028."""

    def __init__(self) -> None:
        self._rest = b""
        self._id, self._type = "", ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Messages completed by ``chunk``; comments (pings) are dropped."""
        buffer = self._rest + chunk
        held = b""
        if buffer.endswith(b"\r"):  # perhaps the first half of CRLF
            buffer, held = buffer[:-1], b"\r"
        *lines, rest = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        for line in lines:
            if (message := self._line(line.decode("utf-8", "replace"))) is not None:
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            data, kind = self._data, self._type
            self._data, self._type = [], ""
            return Message(self._id, kind or "message", "\n".join(data)) if data else None
        if line.startswith(":"):
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None


def to_event(message: Message) -> Event:
    """Understand the data: the same document as in the JSON list, or the bare ``data`` of one."""
    try:
        document = json.loads(message.data)
    except ValueError:
        document = {"text": message.data}
    if isinstance(document, dict) and "type" in document and "data" in document:
        return Event.from_json({"id": message.id, **document})
    return Event(message.id, message.type, None, document if isinstance(document, dict) else {"value": document})
