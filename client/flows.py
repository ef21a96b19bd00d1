"""What a call does, step by step, without doing any I/O: both clients drive these generators.

A flow yields :class:`Send` (answered by a :class:`Reply`, or by ``None`` when the transport failed) and :class:`Sleep`
(answered by ``None``), and returns its result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from client import requests
from client.errors import ApiError, NotFound, Unreachable, WaitTimeout, from_response
from client.patience import Patience
from client.requests import Request, RetryPolicy
from workers.jobs.record import TERMINAL

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, headers (case-insensitive mapping) and whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Send:
    request: Request


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Flow = Generator[Send | Sleep, Reply | None, T]


def exchange(request: Request, policy: RetryPolicy) -> Flow[Reply]:
    """Send, repeat within the policy's bounds, raise the typed error of what remains.

    Raises:
        Unreachable: no answer at all. ApiError: an answer with status >= 400.
    """
    attempt = 0
    while True:
        attempt += 1
        reply = yield Send(request)
        if reply is not None and reply.status < 400:
            return reply
        pause = policy.pause(attempt, reply.headers if reply else None, reply.status if reply else None)
        if pause is None:
            if reply is None:
                raise Unreachable(f"no answer to {request.method} {request.path} after {attempt} tries")
            raise from_response(reply.status, reply.headers, reply.body)
        yield Sleep(pause)


def delete(job_id: str, policy: RetryPolicy) -> Flow[None]:
    """Delete a job. Gone after a try whose answer was lost, it was deleted by that try."""
    tries = 0
    flow, answer = exchange(requests.delete(job_id), policy), None
    try:
        while True:
            step = flow.send(answer)
            tries += isinstance(step, Send)
            answer = yield step
    except StopIteration:
        return
    except NotFound:
        if tries == 1:
            raise


def call_json(request: Request, policy: RetryPolicy) -> Flow[Json]:
    """The JSON object of the answer; ``{}`` for an empty one."""
    reply = yield from exchange(request, policy)
    return parse(reply)


def parse(reply: Reply) -> Json:
    document = json.loads(reply.body) if reply.body else {}
    return document if isinstance(document, dict) else {"data": document}


def wait_for_end(
    job_id: str,
    policy: RetryPolicy,
    *,
    timeout: float | None,
    on_update: Callable[[Json], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    patience: Patience | None = None,
) -> Flow[Json]:
    """Poll with ETag and ``Prefer: wait`` until the job is terminal; returns its last document.

    Args:
        patience: with a service that is away, beyond the tries of ``policy``; its usual length unless given.

    Raises:
        WaitTimeout: after ``timeout`` seconds.
        Unreachable, ApiError: the service was away for longer than the patience, or said no.
    """
    patience = patience or Patience()
    deadline = None if timeout is None else clock() + timeout
    etag: str | None = None
    while True:
        left = None if deadline is None else deadline - clock()
        if left is not None and left <= 0:
            raise WaitTimeout(f"job {job_id} did not end within {timeout:g} s; it goes on")
        try:
            reply = yield from exchange(requests.get(job_id, 20.0 if left is None else min(20.0, left), etag), policy)
        except (Unreachable, ApiError) as error:
            if not patience.bears(error):
                raise
            yield Sleep(_pause_between({}, left))
            continue
        patience.heard()
        if reply.status == 200:
            job = parse(reply)
            if on_update is not None:
                on_update(job)
            if job["status"] in TERMINAL:
                return job
        etag = reply.headers.get("etag", etag)
        yield Sleep(_pause_between(reply.headers, left))


def _pause_between(headers: Mapping[str, str], left: float | None) -> float:
    """What the service asks for, at most 2 s, so that a watcher sees the end soon."""
    try:
        asked = float(headers.get("retry-after", ""))
    except ValueError:
        asked = 0.5
    pause = min(max(asked, 0.1), 2.0)
    return pause if left is None else max(0.0, min(pause, left))
