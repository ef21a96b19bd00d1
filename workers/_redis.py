"""Redis without the waiting: an operation is a generator that yields steps and is sent their replies.

So keys, codec and Lua stand in one place (:mod:`workers._redis_ops`), and two small drivers, one that blocks and one
for an event loop, run them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from workers.jobs.errors import StoreUnavailable

T = TypeVar("T")

CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0
MAX_BLOCK_MS = 4000
"""Longest XREAD BLOCK: well below the time after which the client gives a connection up."""

MAX_CONNECTIONS = 50
"""Of one event loop. Only the hub's one reader holds a connection for longer than a command takes."""

TURN_SECONDS = 5.0
"""So long a command waits for a connection when all are in use."""


@dataclass(frozen=True)
class Script:
    """A Lua script, sent by its hash."""

    source: str

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One command. Its reply is the driver's answer."""

    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Eval:
    """One script."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Commands sent in one go. The answer is the list of their replies.

    Only writes are worth ``atomic``: a server that is out of memory refuses every transaction, even of reads.
    """

    calls: tuple[Call, ...]
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, in seconds."""

    seconds: float


Step = Call | Eval | Batch | Pause
Op = Generator[Step, Any, T]


@contextmanager
def reachable() -> Iterator[None]:
    """Turn every way in which a store can be out of service into StoreUnavailable."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailable(f"the store does not answer: {error}") from error
    except (redis.OutOfMemoryError, redis.ReadOnlyError) as error:
        raise StoreUnavailable(f"the store refuses to write: {error}") from error
    except (redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError) as error:  # a master that is down too
        raise StoreUnavailable(f"the store refuses to work: {error}") from error
    except redis.ResponseError as error:
        text = str(error).rpartition("caused error: ")[2]  # a pipeline names the command first
        if text.startswith(("BUSY ", "MISCONF", "NOREPLICAS")):
            raise StoreUnavailable(f"the store refuses to work: {error}") from error
        raise


class Driver:
    """Runs operations and blocks. Safe for threads, and across a fork."""

    def __init__(self, url: str, *, decode: bool = True) -> None:
        # Each thread holds one connection at a time, so the pool's own bound of 100 is never met.
        # One retry: after a restart of the server every pooled connection fails once.
        self.client = redis.Redis.from_url(url, **_options(decode), retry=Retry(ExponentialBackoff(0.2, 0.05), 1))

    def run(self, op: Op[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = op.send(reply)
            except StopIteration as end:
                return cast(T, end.value)
            with reachable():
                reply = self._do(step)

    def _do(self, step: Step) -> Any:
        match step:
            case Call(args):
                return cast(Any, self.client).execute_command(*args)
            case Eval(script, keys, args):
                try:
                    return self.client.evalsha(script.sha, len(keys), *keys, *args)
                except redis.exceptions.NoScriptError:
                    return self.client.eval(script.source, len(keys), *keys, *args)
            case Batch(calls, atomic):
                with self.client.pipeline(transaction=atomic) as pipe:
                    for call in calls:
                        cast(Any, pipe).execute_command(*call.args)
                    return pipe.execute()
            case Pause(seconds):
                time.sleep(seconds)
                return None

    def close(self) -> None:
        self.client.close()


class AsyncDriver:
    """Runs operations in the event loop that first uses it, any number at a time: those that find all
    ``MAX_CONNECTIONS`` in use wait for their turn, and raise StoreUnavailable after ``TURN_SECONDS``."""

    def __init__(self, url: str, *, decode: bool = True) -> None:
        retry = AsyncRetry(ExponentialBackoff(0.2, 0.05), 1)
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, **_options(decode), retry=retry, max_connections=MAX_CONNECTIONS, timeout=TURN_SECONDS
        )
        self.client = redis.asyncio.Redis.from_pool(pool)  # which closes the pool with itself

    async def run(self, op: Op[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = op.send(reply)
            except StopIteration as end:
                return cast(T, end.value)
            with reachable():
                reply = await self._do(step)

    async def _do(self, step: Step) -> Any:
        match step:
            case Call(args):
                return await cast(Any, self.client).execute_command(*args)
            case Eval(script, keys, args):
                try:
                    return await self.client.evalsha(script.sha, len(keys), *keys, *args)
                except redis.exceptions.NoScriptError:
                    return await self.client.eval(script.source, len(keys), *keys, *args)
            case Batch(calls, atomic):
                async with self.client.pipeline(transaction=atomic) as pipe:
                    for call in calls:
                        pipe.execute_command(*call.args)
                    return await pipe.execute()
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None

    async def close(self) -> None:
        await self.client.aclose()


def _options(decode: bool) -> dict[str, Any]:
    return {
        "decode_responses": decode,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": REPLY_SECONDS,
        "health_check_interval": 30,
    }
