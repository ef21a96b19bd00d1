"""The Compose file on a real engine: build, start with two workers, train a job, kill its worker, drain.

Needs a container engine (``DOCKER_HOST``) and ``docker-compose`` or ``docker compose``; run by ``make compose-test``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PORT = 18080
KEY = secrets.token_hex(24)
pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]

JOB: dict[str, Any] = {
    "name": "compose",
    "model": {"name": "resnet-small"},
    "data": {"name": "mnist5k", "train_size": 1000, "test_size": 500},
    "training": {"epochs": 4, "batch_size": 16, "checkpoint_every_steps": 10},
    "freeze": {"policy": "linear", "options": {"start": 0.2, "level": 0.5}},
    "resources": {"processes_per_worker": 2, "device": "cpu"},
}


def compose_command() -> list[str]:
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


def compose(*arguments: str, timeout: float = 300) -> str:
    env = {**os.environ, "SMARTFRZ_PORT": str(PORT), "COMPOSE_PROJECT_NAME": "smartfrz-test"}
    done = subprocess.run(
        [*compose_command(), *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr[-4000:]}"
    return done.stdout


def wait_for(what: str, poll: Any, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := poll():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:.0f} s: {what}\n{compose('logs', '--tail', '60')}")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    folder = ROOT / "secrets"
    if folder.exists():
        pytest.fail(f"{folder} exists: this test writes its own secrets and will not touch yours")
    folder.mkdir()
    # Readable by the containers' users: Compose without swarm binds secrets as they are.
    (folder / "redis_password").write_text(secrets.token_hex(24))
    (folder / "admin_key").write_text(KEY)
    try:
        compose("build", timeout=1500)
        compose("up", "-d", "--scale", "worker=2")
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers, timeout=10) as session:
            wait_for("two workers registered", lambda: _workers(session) == 2, 120)
            yield session
    finally:
        compose("down", "--volumes", "--timeout", "20")
        shutil.rmtree(folder)


def _workers(session: httpx.Client) -> int:
    try:
        return len(session.get("/v1/workers").raise_for_status().json()["data"])
    except httpx.HTTPError:
        return 0


def _job(session: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(session.get(f"/v1/jobs/{job_id}").raise_for_status().json())


def test_every_service_is_healthy(client: httpx.Client) -> None:
    names = compose("ps", "-q").split()
    assert len(names) == 5

    def healthy() -> bool:
        shown = subprocess.run(["docker", "inspect", *names], capture_output=True, text=True, check=True).stdout
        return all(entry["State"]["Health"]["Status"] == "healthy" for entry in json.loads(shown))

    wait_for("all healthy", healthy, 120)


def test_a_key_is_needed(client: httpx.Client) -> None:
    assert httpx.get(f"http://127.0.0.1:{PORT}/v1/jobs", timeout=10).status_code == 401


def test_a_job_survives_the_death_of_its_worker(client: httpx.Client) -> None:
    compose("exec", "-T", "worker", "smartfrz", "data", "fetch", "mnist5k")
    answer = client.post("/v1/jobs", json=JOB)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    wait_for("a checkpoint", lambda: _saved(client, job_id) or _job(client, job_id)["status"] == "succeeded", 300)
    owner = _job(client, job_id)
    assert owner["status"] == "running", owner
    holder = next(w for w in client.get("/v1/workers").json()["data"] if w["job_id"] == job_id)
    subprocess.run(["docker", "kill", "--signal", "KILL", holder["host"]], check=True, capture_output=True)
    ended = wait_for("the end", lambda: (job := _job(client, job_id)) and job["ended_at"] and job, 600)
    assert ended["status"] == "succeeded", ended
    assert ended["attempt"] == 2
    names = {entry["path"] for entry in client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]}
    assert "model.safetensors" in names


def _saved(session: httpx.Client, job_id: str) -> bool:
    events = session.get(f"/v1/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    return any(event["type"] == "checkpoint.saved" for event in events)
