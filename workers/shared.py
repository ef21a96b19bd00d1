"""A few bytes that a worker's main process and its pool child share: made before the fork, no locks."""

from __future__ import annotations

import mmap

_SIZE = 256


class Board:
    """Shared by fork. Byte 0: draining. Bytes 1..: the current job's id, zero-padded.

    The main process writes the flag, the child the id; a torn read of the id shows for one heartbeat at most.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, _SIZE)

    @property
    def draining(self) -> bool:
        return self._bytes[0] != 0

    @draining.setter
    def draining(self, value: bool) -> None:
        self._bytes[0] = int(value)

    @property
    def job_id(self) -> str | None:
        return self._bytes[1:].rstrip(b"\0").decode() or None

    @job_id.setter
    def job_id(self, value: str | None) -> None:
        self._bytes[1:] = (value or "").encode().ljust(_SIZE - 1, b"\0")
