"""A few bytes that a worker's main process and its pool child share: made before the fork, no locks."""

from __future__ import annotations

import mmap
import struct

_DRAINING, _FALSE_STARTS = 0, 1
_REST, _JOB, _TROUBLE = slice(2, 10), slice(10, 256), slice(256, 1024)


class Board:
    """Shared by fork; texts are cut to their place and padded with zeros.

    The main process writes the flag, the child all else: a pool child that takes the place of a killed one knows what
    that one had met. A torn read of a text shows for one heartbeat at most.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, _TROUBLE.stop)

    @property
    def draining(self) -> bool:
        return self._bytes[_DRAINING] != 0

    @draining.setter
    def draining(self, value: bool) -> None:
        self._bytes[_DRAINING] = int(value)

    @property
    def job_id(self) -> str | None:
        return self._text(_JOB)

    @job_id.setter
    def job_id(self, value: str | None) -> None:
        self._put(_JOB, value)

    @property
    def trouble(self) -> str | None:
        """Why this worker claims nothing, though it is idle."""
        return self._text(_TROUBLE)

    @trouble.setter
    def trouble(self, value: str | None) -> None:
        self._put(_TROUBLE, value)

    @property
    def false_starts(self) -> int:
        """Attempts in a row that ended before their first step for no fault of their jobs; 255 at most."""
        return self._bytes[_FALSE_STARTS]

    @false_starts.setter
    def false_starts(self, value: int) -> None:
        self._bytes[_FALSE_STARTS] = min(value, 255)

    @property
    def rest_until(self) -> float:
        """Nothing is claimed before this moment (monotonic seconds, one clock for the processes of a host)."""
        return float(struct.unpack("d", self._bytes[_REST])[0])

    @rest_until.setter
    def rest_until(self, value: float) -> None:
        self._bytes[_REST] = struct.pack("d", value)

    def _text(self, place: slice) -> str | None:
        return self._bytes[place].rstrip(b"\0").decode(errors="ignore") or None

    def _put(self, place: slice, value: str | None) -> None:
        size = place.stop - place.start
        self._bytes[place] = (value or "").encode()[:size].ljust(size, b"\0")
