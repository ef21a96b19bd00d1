"""The asynchronous client; see :mod:`client.api`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from client import requests
from client.base import Base
from client.config import find_connection
from client.errors import Unreachable, from_response
from client.flows import Flow, Json, Reply, Send, Sleep, call_json, delete, wait_for_end
from client.patience import PATIENCE_SECONDS
from client.requests import Request, RetryPolicy
from client.sse import Event, SseParser, to_event
from client.stream import Reconnect

T = TypeVar("T")


class AsyncClient(Base):
    """Awaiting client: the methods of :class:`client.api.Client`, as coroutines.

    Without arguments it finds URL and key as the command line does; see :func:`client.config.find_connection`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        home: Path | None = None,
        timeout: float = 10.0,
        policy: RetryPolicy | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connection = find_connection(url=url, key=key, home=home)
        super().__init__(connection, policy or RetryPolicy(), timeout, patience_seconds)
        self._http = httpx.AsyncClient(**self._options(), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        answer: Reply | None = None
        try:
            while True:
                step = flow.send(answer)
                answer = None
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await self._send(step)
        except StopIteration as end:
            result: T = end.value
            return result
        except Unreachable as error:
            raise self._unreachable(str(error)) from None

    async def _send(self, step: Send) -> Reply | None:
        try:
            response = await self._http.request(**self._arguments(step.request))
        except httpx.TransportError:
            return None
        return Reply(response.status_code, response.headers, response.content)

    async def request(self, request: Request) -> Json:
        """Send any request of :mod:`client.requests`."""
        return await self._run(call_json(request, self.policy))

    async def submit(
        self, spec: Mapping[str, Any], *, idempotency_key: str | None = None, validate_only: bool = False
    ) -> Json:
        """Create a job from a spec (see ``workers.jobs.spec.JobSpec``) and return it."""
        return await self.request(requests.submit(spec, idempotency_key, validate_only))

    async def get(self, job_id: str) -> Json:
        return await self.request(requests.get(job_id))

    async def list(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        order: str = "desc",
        status: Sequence[str] = (),
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Json:
        """One page: ``{"data": [...], "last_id", "has_more"}``; go on with ``after=last_id``."""
        return await self.request(requests.list_jobs(limit, after, order, status, name, metadata))

    async def cancel(self, job_id: str) -> Json:
        return await self.request(requests.cancel(job_id))

    async def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with all its files. Conflict: it has not, or one that starts from it."""
        await self._run(delete(job_id, self.policy))

    async def freeze(self, job_id: str) -> Json:
        """What is frozen, what it saved, when the next stage is."""
        return await self.request(requests.below(job_id, "freeze"))

    async def history(self, job_id: str, *, limit: int = 100, after: int | str | None = None) -> Json:
        """Freezing decisions, oldest first, one page."""
        return await self.request(requests.below(job_id, "freeze", "history", limit=limit, after=after))

    async def command(
        self, job_id: str, action: str, units: Sequence[str] | None = None, *, idempotency_key: str | None = None
    ) -> Json:
        """Order ``freeze``, ``thaw``, ``pin`` or ``unpin``; thaw without units: everything. Returns the command."""
        return await self.request(requests.command(job_id, action, units, idempotency_key))

    async def commands(self, job_id: str, *, limit: int = 100, after: str | None = None) -> Json:
        """Freeze commands, oldest first, one page, each with its outcome."""
        return await self.request(requests.below(job_id, "freeze", "commands", limit=limit, after=after))

    async def trajectory(self, job_id: str, unit: str) -> Json:
        """The recorded window of one unit."""
        return await self.request(requests.below(job_id, "layers", unit, "trajectory"))

    async def metrics(self, job_id: str, *, max_points: int | None = None) -> Json:
        return await self.request(requests.below(job_id, "metrics", max_points=max_points))

    async def logs(
        self,
        job_id: str,
        *,
        rank: int = 0,
        attempt: int | None = None,
        tail: int | None = None,
        after: int | None = None,
    ) -> Json:
        """Log text of one rank: the last ``tail`` lines, or a piece after a byte offset (``next_after`` goes on)."""
        return await self.request(requests.below(job_id, "logs", rank=rank, attempt=attempt, tail=tail, after=after))

    async def artifacts(self, job_id: str) -> Json:
        return await self.request(requests.below(job_id, "artifacts"))

    async def workers(self) -> Json:
        return await self.request(Request(method="GET", path="/v1/workers"))

    async def catalog(self, kind: str) -> Json:
        """``models``, ``datasets`` or ``policies``, each with the JSON Schema of its options."""
        return await self.request(Request(method="GET", path=f"/v1/{kind}"))

    async def ready(self) -> Json:
        return await self.request(Request(method="GET", path="/readyz"))

    async def wait(
        self, job_id: str, *, timeout: float | None = None, on_update: Callable[[Json], None] | None = None
    ) -> Json:
        """Block until the job is terminal. The job is left alone whatever is raised.

        Raises:
            WaitTimeout.
            Unreachable, Unavailable: the service was away for longer than ``patience_seconds``.
        """
        return await self._run(
            wait_for_end(job_id, self.policy, timeout=timeout, on_update=on_update, patience=self.patience())
        )

    async def download(self, job_id: str, path: str, target: Path) -> Path:
        """Write one artifact to ``target``; it appears whole or not at all."""
        partial = target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            async with self._http.stream(**self._arguments(requests.artifact(job_id, path))) as response:
                if response.status_code >= 400:
                    raise from_response(response.status_code, response.headers, await response.aread())
                with open(partial, "wb") as stream:
                    async for chunk in response.aiter_bytes():
                        stream.write(chunk)
            partial.replace(target)
        except httpx.TransportError as error:
            raise self._unreachable(f"lost {path}: {error or type(error).__name__}") from error
        finally:
            partial.unlink(missing_ok=True)
        return target

    async def event_page(self, job_id: str, *, after: str | None = None, limit: int = 100) -> Json:
        """One page of the JSON list."""
        return await self.request(requests.below(job_id, "events", after=after, limit=limit))

    async def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Replay, then live, until the job has ended; reconnects with ``Last-Event-ID``, nothing twice, nothing lost.

        Raises:
            Unreachable: the connection could not be had again within ``patience_seconds``.
        """
        state = Reconnect(job_id, after, self.policy, self.patience())
        while state.going_on():
            try:
                async with self._http.stream(**self._arguments(state.request())) as response:
                    body = await response.aread() if response.status_code >= 400 else b""
                    live = state.opened(Reply(response.status_code, response.headers, body))
                    parser = SseParser()
                    async for chunk in response.aiter_bytes():
                        state.alive(live)
                        for message in parser.feed(chunk) if live else ():
                            if state.accept(message):
                                yield to_event(message)
                        if not state.going_on():
                            break
            except httpx.TransportError as error:
                state.broke(error)
            if state.going_on():
                await asyncio.sleep(state.pause())
