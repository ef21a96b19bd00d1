"""What the API needs from outside beyond the job kernel's own ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from freezer.windows import Snapshot


class WindowReader(Protocol):
    """Reads the windows of weight snapshots that trainers recorded, without blocking the event loop."""

    async def read(self, job_id: str, unit: str) -> Sequence[Snapshot]:
        """Oldest first; empty for a unit that was never recorded.

        Raises:
            workers.jobs.errors.StoreUnavailable: the window store does not answer.
        """

    async def close(self) -> None: ...


class MemoryWindowReader:
    """The twin: windows in this process, by job."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, str], list[Snapshot]] = {}

    async def read(self, job_id: str, unit: str) -> Sequence[Snapshot]:
        return self.windows.get((job_id, unit), [])

    async def close(self) -> None:
        """Nothing to close; here for the port's sake."""
