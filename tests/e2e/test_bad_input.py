"""What a user gets wrong, on the whole stack: each mistake ends with the sentence that helps, and the stack goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from workers.settings import Settings
from workers.supervisor import Supervisor

pytestmark = pytest.mark.timeout(180)
Json = dict[str, Any]

USER_CODE = """
import torch
from torch import nn


def data():
    labels = torch.arange(32) % 4
    return (torch.randn(32, 2), labels), (torch.randn(32, 2), labels)


def model(num_classes):
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, num_classes))


def broken(num_classes):
    raise RuntimeError("the flux capacitor is empty")


def narrow(num_classes):
    print("about to train", flush=True)
    return nn.Linear(3, num_classes)
"""
DIGITS = {"name": "mnist5k", "train_size": 64, "test_size": 20}
POINTS = {"name": "code", "entry": "mine.py:data"}
SMALL = {"name": "resnet-small", "options": {"width": 4, "depth": 1}}


def spec(name: str, **fields: Any) -> Json:
    return {
        "name": name,
        "model": SMALL,
        "data": DIGITS,
        "training": {"epochs": 1, "batch_size": 16},
        "freeze": {"policy": "none"},
        "resources": {"device": "cpu"},
        **fields,
    }


AT_START = {
    "window": spec("window", freeze={"policy": "smartfrz", "window": 20}),
    "classes": spec("classes", model={"name": "resnet-small", "options": {"width": 4, "depth": 1, "num_classes": 4}}),
    "raises": spec("raises", model={"name": "code", "entry": "mine.py:broken"}, data=POINTS),
    "shape": spec("shape", model={"name": "code", "entry": "mine.py:narrow"}, data=POINTS),
    "function": spec("function", model={"name": "code", "entry": "mine.py:absent"}, data=POINTS),
    "ranks": spec("ranks", resources={"device": "cpu", "processes_per_worker": 3}),
    "cuda": spec("cuda", resources={"device": "cuda"}),
}
"""Mistakes that are seen only by who runs the job; all are submitted at once."""


@dataclass
class Stack:
    supervisor: Supervisor
    client: httpx.Client
    jobs: dict[str, str]

    def job(self, name: str) -> Json:
        answer = self.client.get(f"/v1/jobs/{self.jobs[name]}")
        answer.raise_for_status()
        return dict(answer.json())

    def ended(self, name: str) -> Json:
        return until(lambda: job if (job := self.job(name))["ended_at"] else None)


def until(probe: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"nothing within {seconds:.0f} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], Path]) -> Iterator[Stack]:
    mnist5k = need("mnist5k")
    root = tmp_path_factory.mktemp("bad-input")
    for name in ("code", "data", "packages"):
        (root / name).mkdir()
    (root / "code" / "mine.py").write_text(USER_CODE)
    (root / "outside.py").write_text(USER_CODE)
    (root / "data" / "link").symlink_to("/etc")
    (root / "packages" / "mnist5k").symlink_to(mnist5k)
    settings = Settings(
        home=root / "home",
        redis_url=None,
        window_redis_url=None,
        code_dir=root / "code",
        data_dir=root / "data",
        packages_dir=root / "packages",
        worker_processes=2,
        reap_seconds=0.5,
    )
    with Supervisor(settings, "127.0.0.1", 0, workers=2) as supervisor:
        headers = {"Authorization": f"Bearer {(settings.home / 'admin.key').read_text().strip()}"}
        with httpx.Client(base_url=supervisor.url, headers=headers, timeout=30.0, trust_env=False) as client:
            jobs = {}
            for name, body in AT_START.items():
                answer = client.post("/v1/jobs", json=body)
                assert answer.status_code == 201, answer.text
                jobs[name] = answer.json()["id"]
            yield Stack(supervisor, client, jobs)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"model": {"name": "resnet-99"}}, "/model/name", "resnet-small"),
        ({"data": {"name": "mnist"}}, "/data/name", "mnist5k"),
        ({"data": {"name": "fashion-mnist"}}, "/data/name", "smartfrz data fetch fashion-mnist"),
        ({"freeze": {"policy": "icefreeze"}}, "/freeze/policy", "smartfrz"),
        ({"trainig": {}}, "/trainig", "unknown field"),
        ({"training": {"epoch": 3}}, "/training/epoch", "unknown field"),
        ({"freeze": {"windw": 3}}, "/freeze/windw", "window"),
        ({"model": {"name": "resnet-small", "options": {"widht": 4}}}, "/model/options/widht", "width"),
        ({"resources": {"processes_per_worker": 9}}, "/resources/processes_per_worker", "at most 8"),
        ({"model": {"name": "code", "entry": "../outside.py:model"}}, "/model/entry", "out of the code directory"),
        ({"data": {"name": "csv", "path": "../../etc/passwd"}}, "/data/path", "out of the data directory"),
        ({"data": {"name": "csv", "path": "link/passwd"}}, "/data/path", "out of the data directory"),
    ],
)
def test_what_is_wrong_by_itself_is_refused_at_submit(stack: Stack, fields: Json, pointer: str, words: str) -> None:
    answer = stack.client.post("/v1/jobs", json=spec("refused", **fields))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}
    assert words in found[pointer], found
    assert stack.client.get("/v1/jobs", params={"name": "refused"}).json()["data"] == []


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("window", "config_invalid", "/freeze/window"),
        ("classes", "config_invalid", "num_classes is 4, but the data has 10 classes"),
        ("function", "config_invalid", "mine.py defines no function absent"),
    ],
)
def test_what_shows_at_start_fails_with_the_sentence_that_helps(
    stack: Stack, name: str, reason: str, words: str
) -> None:
    job = stack.ended(name)
    assert (job["status"], job["status_reason"], job["attempt"]) == ("failed", reason, 1)
    assert words in job["status_message"]


@pytest.mark.parametrize(
    ("name", "cause", "line"),
    [
        ("raises", "RuntimeError: the flux capacitor is empty", 'raise RuntimeError("the flux capacitor is empty")'),
        ("shape", "RuntimeError: mat1 and mat2", "about to train"),
    ],
)
def test_code_that_raises_ends_the_job_with_its_own_line(stack: Stack, name: str, cause: str, line: str) -> None:
    job = stack.ended(name)
    assert (job["status"], job["status_reason"], job["attempt"]) == ("failed", "code_error", 1)
    assert cause in job["status_message"].splitlines()[0]
    log = stack.client.get(f"/v1/jobs/{job['id']}/logs").json()["content"]
    assert line in log
    assert job["status_message"].splitlines()[-1] in log
    if name == "raises":  # the user's file and line, not ours alone
        assert line in job["status_message"]


def test_what_no_worker_offers_stays_queued_with_the_reason(stack: Stack) -> None:
    for name, words in (("ranks", "needs 3 processes, the largest worker offers 2"), ("cuda", "needs a cuda device")):
        job = until(lambda name=name: job if (job := stack.job(name))["queue"]["reason"] else None)
        assert (job["status"], job["attempt"]) == ("queued", 0)
        assert words in job["queue"]["reason"]


def test_a_killed_store_is_a_503_that_writes_nothing_and_comes_back(stack: Stack) -> None:
    until(lambda: all(worker["state"] == "idle" for worker in stack.client.get("/v1/workers").json()["data"]))
    body = spec("late", resources={"device": "cpu", "processes_per_worker": 3})
    refused = None
    for _ in range(3):  # it is back within half a second; the pause grows with every death
        os.kill(stack.supervisor.pids["store"], signal.SIGKILL)
        answer = stack.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "late"})
        if answer.status_code == 503:
            refused = answer
            break
        body["name"] += "r"
    assert refused is not None
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["code"] == "STORE_UNAVAILABLE"
    assert stack.client.get("/livez").status_code == 200

    until(lambda: stack.client.get("/readyz").status_code == 200, 30.0)
    assert stack.client.get("/v1/jobs", params={"name": body["name"]}).json()["data"] == []
    assert stack.job("raises")["status"] == "failed", "what was written before is there"
    first, again = (stack.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "late"}) for _ in range(2))
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
