"""When an event stream ends, and how it is taken up again after a break. Pure; both clients share it."""

from __future__ import annotations

from client import requests
from client.errors import Unreachable, from_response
from client.flows import Reply
from client.patience import Patience
from client.requests import Request, RetryPolicy
from client.sse import Message


class Reconnect:
    """State of one follower across connections; over once the service said that nothing more will come.

    Breaks are borne as long as tries of the policy are left or the patience is not over.
    """

    def __init__(self, job_id: str, after: str | None, policy: RetryPolicy, patience: Patience | None = None) -> None:
        self.job_id, self.last_id, self.policy = job_id, after, policy
        self._patience = patience or Patience(0.0)
        self._ended = False
        self._failures = 0
        self._pause = 0.0

    def going_on(self) -> bool:
        return not self._ended

    def request(self) -> Request:
        return requests.events_stream(self.job_id, self.last_id)

    def opened(self, reply: Reply) -> bool:
        """Judge the answer's head: 204 is the end, 503 a break, any other error is final. Whether events follow.

        Raises:
            ApiError: not worth another try, or no try left.
        """
        if reply.status == 204:
            self._ended = True
        elif reply.status >= 400 and not self._failed(reply):
            raise from_response(reply.status, reply.headers, reply.body)
        return reply.status == 200

    def alive(self, live: bool) -> None:
        """Bytes came; of a ``live`` stream also a ping counts as an answer: a job may be silent for hours."""
        if live:
            self._patience.heard()

    def accept(self, message: Message) -> bool:
        """Note the id; whether the message is an event of the job (``end`` is not)."""
        self._failures = 0
        if message.id:
            self.last_id = message.id
        if message.type == "end":
            self._ended = True
        return not self._ended

    def broke(self, error: Exception) -> None:
        """The connection failed. Raises Unreachable when no try is left."""
        if not self._failed(None):
            raise Unreachable(f"lost the event stream of {self.job_id}: {error or type(error).__name__}") from error

    def pause(self) -> float:
        """Seconds before the next connection."""
        pause, self._pause = self._pause, 0.0
        return pause or 2 * self.policy.backoff_seconds

    def _failed(self, reply: Reply | None) -> bool:
        self._failures += 1
        tries = self._failures if self._patience.over() else min(self._failures, self.policy.attempts - 1)
        pause = self.policy.pause(tries, reply.headers if reply else None, reply.status if reply else None)
        self._pause = pause or 0.0
        return pause is not None
