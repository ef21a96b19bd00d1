"""Both clients against the real API."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from client.api import AsyncClient, Client
from client.errors import AuthError, Conflict, Invalid, NotFound, Unavailable, Unreachable, WaitTimeout
from client.requests import RetryPolicy
from client.sse import Event
from client.watch import watch

if TYPE_CHECKING:
    from conftest import Service

Start = Callable[[Callable[[], Any]], threading.Thread]


def test_a_job_from_submit_to_its_artifacts(service: Service, tmp_path: Path) -> None:
    with service.client() as client:
        job = client.submit(service.spec)
        fence = service.start(job["id"])
        files = service.attempt(job["id"], fence)
        files.log(0).write_text("one\ntwo\n")
        files.metrics.write_text('{"step": 1, "at": 0, "loss": 2.0}\n')
        (files.artifacts / "report.json").write_text('{"accuracy": 0.5}')
        service.store.append_decision(job["id"], fence, {"step": 3, "frozen": ["a"]})
        service.store.put_freeze(job["id"], fence, {"step": 3, "units": [{"name": "a", "state": "frozen"}]})
        service.finish(job["id"], summary={"accuracy": 0.5})

        assert client.get(job["id"])["summary"] == {"accuracy": 0.5}
        assert [entry["id"] for entry in client.list(status=["succeeded"])["data"]] == [job["id"]]
        assert client.list(status=["failed"])["data"] == []
        assert client.freeze(job["id"])["units"][0]["name"] == "a"
        assert client.history(job["id"])["data"][0]["step"] == 3
        assert client.metrics(job["id"])["series"][0]["values"] == [2.0]
        assert client.logs(job["id"], tail=1)["content"] == "two\n"
        assert client.logs(job["id"], after=4)["content"] == "two\n"
        path = client.download(job["id"], "report.json", tmp_path / "out" / "r.json")
        assert json.loads(path.read_text()) == {"accuracy": 0.5}
        assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_a_download_that_is_refused_leaves_nothing(service: Service, tmp_path: Path) -> None:
    with service.client() as client:
        job = client.submit(service.spec)
        with pytest.raises(NotFound):
            client.download(job["id"], "none.bin", tmp_path / "none.bin")
    assert list(tmp_path.glob("*none*")) == []


class _Cut(httpx.BaseTransport, httpx.SyncByteStream):
    """A connection that breaks in the middle of a body."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=self)

    def __iter__(self) -> Iterator[bytes]:
        yield b"half"
        raise httpx.ReadError("cut")


def test_a_download_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    with Client("http://x", "k", transport=_Cut()) as client, pytest.raises(Unreachable, match=r"lost a\.bin: cut"):
        client.download("job_1", "a.bin", tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_the_same_key_gives_the_same_job(service: Service) -> None:
    with service.client() as client:
        one, two = (client.submit(service.spec, idempotency_key="k1") for _ in range(2))
        assert one["id"] == two["id"]
        assert client.submit(service.spec)["id"] != one["id"]
        with pytest.raises(Invalid, match="IDEMPOTENCY_KEY_REUSED"):
            client.submit({**service.spec, "name": "other"}, idempotency_key="k1")


def test_errors_are_typed(service: Service) -> None:
    with service.client() as client:
        with pytest.raises(NotFound):
            client.get("job_000")
        with pytest.raises(Invalid) as caught:
            client.submit({**service.spec, "nonsense": 1})
        assert caught.value.problems[0].pointer == "/nonsense"
        job = client.submit(service.spec)
        service.start(job["id"])
        service.finish(job["id"])
        with pytest.raises(Conflict):
            client.cancel(job["id"])
    with Client(service.url, "a-wrong-key-0123456789") as stranger, pytest.raises(AuthError):
        stranger.list()


async def test_both_clients_delete(service: Service) -> None:
    with service.client() as client:
        first, second = (client.submit(service.spec)["id"] for _ in range(2))
        for job_id in (first, second):
            client.cancel(job_id)
        client.delete(first)
        async with AsyncClient(service.url, client.connection.key) as other:
            await other.delete(second)
        assert client.list()["data"] == []
        with pytest.raises(NotFound):
            client.delete(first)


def test_a_store_that_comes_back_is_waited_for(service: Service, in_background: Start) -> None:
    with service.client(max_pause_seconds=0.05) as client:
        service.store.available = False
        with pytest.raises(Unavailable):
            client.submit(service.spec)
    with service.client(attempts=2000, max_pause_seconds=0.01) as client:
        answers: list[Any] = []
        thread = in_background(lambda: answers.append(client.submit(service.spec)))
        thread.join(timeout=0.2)
        assert not answers, "it waits while the store is away"
        service.store.available = True
        thread.join(timeout=20)
        assert [entry["id"] for entry in client.list()["data"]] == [answers[0]["id"]]


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with Client("http://127.0.0.1:9", "k", policy=RetryPolicy(attempts=2, backoff_seconds=0.01)) as client:
        with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9: .* 2 tries"):
            client.list()


def test_events_replay_go_on_live_and_end(service: Service, in_background: Start) -> None:
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
        seen: list[Event] = []
        first = threading.Event()

        def follow() -> None:
            for event in client.events(job_id):
                seen.append(event)
                first.set()

        thread = in_background(follow)
        assert first.wait(10)
        service.start(job_id)
        service.event(job_id, "unit.frozen", unit="a", step=3)
        service.finish(job_id)
        thread.join(timeout=20)
        listed = [Event.from_json(entry) for entry in client.event_page(job_id)["data"]]
        assert seen == listed
        assert [e.type for e in seen][-2:] == ["unit.frozen", "job.succeeded"]
        assert [e.type for e in client.events(job_id, after=seen[-2].id)] == ["job.succeeded"]


def test_watch_gives_events_and_documents_and_last_the_final_one(service: Service, in_background: Start) -> None:
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
        items: list[Any] = []
        running = threading.Event()

        def follow() -> None:
            for item in watch(client, job_id, poll_seconds=0.05, settle_seconds=60):
                items.append(item)
                if not isinstance(item, Event) and item["status"] == "running":
                    running.set()

        thread = in_background(follow)
        service.start(job_id)
        assert running.wait(10)
        service.event(job_id, "unit.frozen", unit="a", step=3)
        service.finish(job_id)
        thread.join(timeout=20)
    assert "unit.frozen" in [item.type for item in items if isinstance(item, Event)]
    assert items[-1]["status"] == "succeeded"


def test_wait_returns_at_the_end_or_gives_up(service: Service, in_background: Start) -> None:
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
        with pytest.raises(WaitTimeout):
            client.wait(job_id, timeout=0.2)
        service.start(job_id)
        done: list[Any] = []
        thread = in_background(lambda: done.append(client.wait(job_id, timeout=20)))
        service.finish(job_id, "failed", reason="code_error", message="boom")
        thread.join(timeout=20)
        assert (done[0]["status"], done[0]["status_message"]) == ("failed", "boom")


async def test_the_asynchronous_client_says_the_same(service: Service, tmp_path: Path) -> None:
    async with AsyncClient(service.url, service.client().connection.key) as client:
        job = await client.submit(service.spec)
        service.attempt(job["id"]).artifacts.joinpath("a.txt").write_text("x")
        service.start(job["id"])
        service.finish(job["id"])
        assert (await client.wait(job["id"], timeout=10))["status"] == "succeeded"
        assert [event.type async for event in client.events(job["id"])][-1] == "job.succeeded"
        assert (await client.download(job["id"], "a.txt", tmp_path / "a.txt")).read_text() == "x"
        assert (await client.catalog("models"))["data"]
        with pytest.raises(NotFound):
            await client.get("job_000")


class _NoStream(Client):
    """A client behind a proxy that lets no stream through."""

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        raise Unreachable("no streams here")


def test_watch_goes_on_by_polling_when_there_is_no_stream(service: Service) -> None:
    with _NoStream(service.url, service.client().connection.key) as client:
        job_id = client.submit(service.spec)["id"]
        items = watch(client, job_id, poll_seconds=0.02, settle_seconds=60)
        assert next(items)["status"] == "queued"  # type: ignore[index]
        service.start(job_id)
        service.finish(job_id)
        assert list(items)[-1]["status"] == "succeeded"  # type: ignore[index]


class _Away(Client):
    """A client whose service is away for a while, beyond all tries of one call."""

    left = 3

    def get(self, job_id: str) -> Any:
        if self.left > 0:
            self.left -= 1
            raise Unreachable("no answer")
        return super().get(job_id)


def test_watch_bears_a_service_that_is_away(service: Service) -> None:
    key = service.client().connection.key
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
    service.start(job_id)
    service.finish(job_id)
    with _Away(service.url, key) as client:
        assert list(watch(client, job_id, poll_seconds=0.01))[-1]["status"] == "succeeded"  # type: ignore[index]
        assert client.left == 0
    with _Away(service.url, key, patience_seconds=0.0) as client, pytest.raises(Unreachable):
        list(watch(client, job_id, poll_seconds=0.01))


def test_wait_goes_on_when_the_store_is_back(service: Service, in_background: Start) -> None:
    with service.client(attempts=1) as client:
        job_id = client.submit(service.spec)["id"]
        seen: list[Any] = []
        service.store.available = False
        thread = in_background(lambda: seen.append(client.wait(job_id)))
        thread.join(timeout=0.2)
        assert not seen
        service.store.available = True
        service.start(job_id)
        service.finish(job_id)
        thread.join(timeout=20)
        assert seen[0]["status"] == "succeeded"
