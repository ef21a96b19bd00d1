"""The API as a process of its own, on a real store: keys, streams over a socket, and an orderly stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from workers.jobs import state
from workers.jobs.record import Event, JobRecord, Progress
from workers.redis_store import RedisJobStore
from workers.settings import Settings

SPEC = {"name": "demo", "model": {"name": "resnet-small"}, "data": {"name": "mnist5k"}}


@dataclass
class Api:
    """A running API and the store behind it."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    store: RedisJobStore
    log: Path

    def submit(self) -> str:
        answer = self.client.post("/v1/jobs", json=SPEC)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, job_id: str) -> JobRecord:
        fence = self.store.update(job_id, lambda r, now: state.claim(r, now, owner="w", lease_seconds=60)).fence
        return self.store.update(
            job_id, lambda r, now: state.report_progress(r, now, fence=fence, progress=Progress(step=1))
        )

    def finish(self, job_id: str) -> None:
        self.store.update(job_id, lambda r, now: state.finish(r, now, fence=r.fence, status="succeeded"))

    def stop(self) -> float:
        """Seconds from TERM to the end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) in (0, -signal.SIGTERM), self.log.read_text()
        return time.monotonic() - started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return os.environ | {
        "SMARTFRZ_HOME": str(settings.home),
        "SMARTFRZ_REDIS_URL": str(settings.redis_url),
        "SMARTFRZ_KEY_PREFIX": settings.key_prefix,
        "SMARTFRZ_SHUTDOWN_SECONDS": "10",
        "SMARTFRZ_REAP_SECONDS": "0.2",
        "SMARTFRZ_SSE_SEND_TIMEOUT_SECONDS": "1",
        **more,
    }


@pytest.fixture
def api(settings: Settings, tmp_path: Path, stand_in_packages: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    """Indirect parameters are more of its environment."""
    port, log = free_port(), tmp_path / "api.log"
    command = [sys.executable, "-m", "api", "--port", str(port)]
    with log.open("wb") as output:
        env = environment(settings, SMARTFRZ_PACKAGES_DIR=str(stand_in_packages), **getattr(request, "param", {}))
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    store = RedisJobStore(str(settings.redis_url), settings.key_prefix)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        key = (settings.home / "admin.key").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
            yield Api(process, client, store, log)
    finally:
        process.kill()
        process.wait()
        store.close()


def read_events(lines: Iterator[str], count: int | None = None) -> list[dict[str, str]]:
    """Events of a stream, until it closes or ``count`` are there."""
    found: list[dict[str, str]] = []
    event: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            found.append(event)
            event = {}
            if len(found) == count:
                break
    return found


def stream(api: Api, job_id: str, last_event_id: str | None = None) -> Any:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    return api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers)


@pytest.mark.parametrize(("api", "logged"), [({}, False), ({"SMARTFRZ_ACCESS_LOG": "1"}, True)], indirect=["api"])
def test_requests_are_logged_only_when_asked_for(api: Api, logged: bool) -> None:
    assert api.client.get("/v1/jobs").status_code == 200
    api.stop()
    assert ("GET /v1/jobs" in api.log.read_text()) is logged


def test_a_stream_replays_goes_live_and_ends_and_a_reconnect_is_204(api: Api) -> None:
    job_id = api.submit()
    with stream(api, job_id) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        lines = answer.iter_lines()
        (first,) = read_events(lines, 1)
        assert first["event"] == "job.created"
        api.run(job_id)
        live = read_events(lines, 2)
        api.store.append_event(job_id, Event(type="unit.frozen", at=1.0, data={"unit": "conv1"}))
        live += read_events(lines, 1)
        assert [event["event"] for event in live] == ["job.starting", "job.running", "unit.frozen"]
        api.finish(job_id)
        rest = read_events(lines)
        assert [event["event"] for event in rest] == ["job.succeeded", "end"]
    with stream(api, job_id, live[1]["id"]) as answer:
        again = read_events(answer.iter_lines())
        assert [event["event"] for event in again] == ["unit.frozen", "job.succeeded", "end"]
    with stream(api, job_id, again[-1]["id"]) as answer:
        assert answer.status_code == 204


def test_open_streams_and_waiting_requests_do_not_hold_up_shutdown(api: Api) -> None:
    job_id = api.submit()
    waiting: list[int] = []

    def wait() -> None:
        waiting.append(api.client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=19"}).status_code)

    thread = threading.Thread(target=wait)
    with stream(api, job_id) as answer:
        lines = answer.iter_lines()
        read_events(lines, 1)
        thread.start()
        time.sleep(0.3)  # the request has no other sign that it waits
        seconds = api.stop()
        assert read_events(lines) == []
    thread.join(20)
    assert waiting == [200]
    assert seconds < 5, api.log.read_text()
    assert "Traceback" not in api.log.read_text()


def test_a_client_that_does_not_read_is_dropped(api: Api) -> None:
    """12 MB are more than the socket's buffers hold; the service is asked for other things meanwhile."""
    job_id = api.submit()
    api.run(job_id)
    for _ in range(600):
        api.store.append_event(job_id, Event(type="log", at=1.0, data={"text": "x" * 20_000}))
    with stream(api, job_id):
        deadline = time.monotonic() + 20
        while "reader too slow" not in api.log.read_text():
            assert time.monotonic() < deadline, api.log.read_text()
            assert httpx.get(api.client.base_url.join("/livez")).status_code == 200
            time.sleep(0.1)
    assert "Traceback" not in api.log.read_text()


def test_the_reaper_runs_in_the_api(api: Api) -> None:
    """The thread in the lifespan says why a job waits that no worker fits."""
    job_id = api.submit()
    deadline = time.monotonic() + 20
    while api.client.get(f"/v1/jobs/{job_id}").json()["queue"]["reason"] is None:
        assert time.monotonic() < deadline, api.log.read_text()
        time.sleep(0.05)


def test_without_a_key_it_does_not_start(settings: Settings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api", "--host", "0.0.0.0", "--port", str(free_port())]
    env = environment(settings, SMARTFRZ_ADMIN_KEY_FILE=str(tmp_path / "missing"))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot read the admin key file" in done.stderr
    assert "no service on 0.0.0.0" in done.stderr


def test_without_a_store_it_says_what_to_set(settings: Settings) -> None:
    env = environment(settings) | {"SMARTFRZ_REDIS_URL": ""}
    done = subprocess.run([sys.executable, "-m", "api"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "SMARTFRZ_REDIS_URL" in done.stderr


def test_a_store_that_is_away_is_503(settings: Settings, tmp_path: Path, stand_in_packages: Path) -> None:
    port, log = free_port(), tmp_path / "api.log"
    env = environment(settings) | {"SMARTFRZ_REDIS_URL": f"unix://{tmp_path}/nowhere.sock"}
    env |= {"SMARTFRZ_ADMIN_KEY": "a-key-of-this-test", "SMARTFRZ_PACKAGES_DIR": str(stand_in_packages)}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "api", "--port", str(port)]
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{url}/livez").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        headers = {"Authorization": "Bearer a-key-of-this-test"}
        answer = httpx.post(f"{url}/v1/jobs", json=SPEC, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert answer.headers["retry-after"]
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 503
    finally:
        process.kill()
        process.wait()
