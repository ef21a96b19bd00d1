"""The guardian by itself: whatever dies around it, no process of the attempt is left, and never do two attempts run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import proctree
from workers.guardian import LOCKED, Orders, torchrun
from workers.jobs.layout import AttemptSpec, JobFiles, write_atomic
from workers.jobs.spec import JobSpec

SUPPORT = Path(__file__).parents[2] / "support"
HOLD = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
"""A parent that starts the guardian with a leash, as the runner does, and can be killed with -9."""


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Attempt:
    def __init__(self, home: Path, fence: int = 1, lock_wait_seconds: float = 20.0, **metadata: str) -> None:
        self.job = JobFiles(home, "job_x")
        self.files, self.fence = self.job.attempt(fence), fence
        spec = JobSpec.model_validate(
            {"name": "t", "model": {"name": "m"}, "data": {"name": "d"}, "metadata": metadata}
        )
        document = AttemptSpec(
            job_id="job_x", fence=fence, attempt=fence, spec=spec, home=str(home), worker_id="w", device="cpu"
        )
        write_atomic(self.files.spec, document.model_dump_json())
        self.orders = Orders(
            attempt_root=self.files.root,
            lock=self.job.root / ".lock",
            lock_wait_seconds=lock_wait_seconds,
            processes=2,
            rank_module="standin_rank",
            kill_grace_seconds=0.5,
        )
        self.command = [sys.executable, "-m", "workers.guardian", self.orders.model_dump_json()]
        self.env = dict(os.environ) | {"PYTHONPATH": str(SUPPORT)}

    def start(self, *, behind_a_parent: bool = False) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLD, *self.command] if behind_a_parent else self.command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=self.env)
        return self.process

    @property
    def pids(self) -> list[int]:
        path = self.job.root / "pids.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line["pid"] for line in lines if line["fence"] == self.fence]

    @property
    def locked(self) -> bool:
        with open(self.job.root / ".lock", "a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def close(self) -> None:
        if hasattr(self, "process"):
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(20)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Attempt]]:
    made: list[Attempt] = []

    def build(**kwargs: Any) -> Attempt:
        made.append(Attempt(tmp_path, **kwargs))
        return made[-1]

    yield build
    for attempt in made:
        attempt.close()
        assert not any(proctree.alive(pid) for pid in attempt.pids)


def test_it_passes_on_torchruns_exit_code_and_lets_go_of_the_lock(make: Callable[..., Attempt]) -> None:
    attempt = make(steps="2")
    assert attempt.start().wait(60) == 0
    assert not attempt.locked


@pytest.mark.parametrize("metadata", [{}, {"stubborn": "1", "grandchild": "1"}], ids=["civil", "stubborn"])
def test_kill_9_of_the_parent_takes_every_rank_down(make: Callable[..., Attempt], metadata: dict[str, str]) -> None:
    attempt = make(steps="50000", **metadata)
    parent = attempt.start(behind_a_parent=True)
    until(lambda: len(attempt.pids) == (4 if metadata else 2))
    tree = proctree.descendants(parent.pid)
    assert set(attempt.pids) <= set(tree)
    assert attempt.locked
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not any(proctree.alive(pid) for pid in tree), 10)
    assert not attempt.locked


def test_kill_9_of_the_guardian_itself_leaves_no_rank(make: Callable[..., Attempt]) -> None:
    attempt = make(steps="50000", stubborn="1")
    guardian = attempt.start()
    until(lambda: len(attempt.pids) == 2)
    os.kill(guardian.pid, signal.SIGKILL)
    until(lambda: not any(proctree.alive(pid) for pid in attempt.pids), 10)


def test_kill_9_of_torchrun_leaves_no_rank_and_ends_the_guardian(make: Callable[..., Attempt]) -> None:
    attempt = make(steps="50000", stubborn="1")
    guardian = attempt.start()
    until(lambda: len(attempt.pids) == 2)
    (torchrun_pid,) = (pid for pid in proctree.descendants(guardian.pid) if pid not in attempt.pids)
    os.kill(torchrun_pid, signal.SIGKILL)
    assert guardian.wait(10) == 128 + signal.SIGKILL
    assert not any(proctree.alive(pid) for pid in attempt.pids)


@pytest.mark.parametrize("order", [b"T", b"K"])
def test_orders_on_the_leash_end_the_tree(make: Callable[..., Attempt], order: bytes) -> None:
    attempt = make(steps="50000", stubborn="1")
    guardian = attempt.start()
    until(lambda: len(attempt.pids) == 2)
    assert guardian.stdin is not None
    guardian.stdin.write(order)
    guardian.stdin.flush()
    assert guardian.wait(10) != 0
    assert not any(proctree.alive(pid) for pid in attempt.pids)


def test_a_second_attempt_waits_until_the_first_is_gone(make: Callable[..., Attempt]) -> None:
    first, second = make(fence=1, steps="50000"), make(fence=2, steps="2")
    first.start()
    until(lambda: len(first.pids) == 2)
    second.start()
    time.sleep(0.5)  # nothing may happen in this time, so there is no event to wait for
    assert second.pids == []
    first.close()
    assert second.process.wait(60) == 0
    assert len(second.pids) == 2


def test_a_second_attempt_gives_up_when_the_first_stays(make: Callable[..., Attempt]) -> None:
    first, second = make(fence=1, steps="50000"), make(fence=2, lock_wait_seconds=0.3)
    first.start()
    until(lambda: len(first.pids) == 2)
    assert second.start().wait(20) == LOCKED
    assert second.pids == []


def test_torchrun_is_told_ranks_rendezvous_and_grace(make: Callable[..., Attempt]) -> None:
    command = " ".join(torchrun(make().orders))
    assert "--nproc-per-node 2 --max-restarts 0" in command
    assert "--standalone" in command
    assert "--shutdown-timeout 1" in command
