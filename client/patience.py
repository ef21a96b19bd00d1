"""How long somebody who waits for a job bears with a service that is away. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from client.errors import ApiError, ClientError, Unreachable
from client.requests import PASSING

PATIENCE_SECONDS = 300.0
"""A service that is started again, or moved, is back within minutes; the job goes on meanwhile."""


class Patience:
    """Counts from the last good answer, and from the start where there was none.

    Args:
        seconds: how long the service may be away; 0: not at all.
        clock: seconds, monotonic.
    """

    def __init__(self, seconds: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._heard = clock()

    def heard(self) -> None:
        """The service answered."""
        self._heard = self._clock()

    def over(self) -> bool:
        return self._clock() - self._heard >= self._seconds

    def bears(self, error: ClientError) -> bool:
        """Whether to try again after ``error``."""
        return is_away(error) and not self.over()


def is_away(error: ClientError) -> bool:
    """Whether the service, or the store behind it, did not answer; a refusal is an answer."""
    return isinstance(error, Unreachable) or (isinstance(error, ApiError) and error.status in PASSING)
