"""Owner of one attempt's process tree: ``python -m workers.guardian '<Orders as JSON>'``.

The guardian holds the job's flock, and the devices' flocks that it inherited, from before the first rank starts until
the last one is gone: two attempts of one job cannot run at once on one file system, whatever became of their workers.
Its stdin is the leash: end of file means that the runner has died; the byte ``T`` asks for TERM, grace, KILL; ``K``
for KILL. It exits with torchrun's code (128 + n for signal n), or with ``LOCKED``.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from workers import proctree
from workers.jobs.layout import AttemptFiles
from workers.rank import GUARDIAN_VARIABLE

LOCKED = 75
"""Exit code (EX_TEMPFAIL): an earlier attempt still holds the job's flock."""

ORPHAN_GRACE_SECONDS = 1.0
"""From TERM to KILL when the runner has died: nobody waits for a checkpoint then, and a successor may be waiting."""


class Orders(BaseModel):
    """What the runner tells its guardian."""

    model_config = ConfigDict(frozen=True)

    attempt_root: Path
    lock: Path
    lock_wait_seconds: float
    processes: int
    rank_module: str
    kill_grace_seconds: float


def torchrun(orders: Orders) -> list[str]:
    """The command that starts the ranks."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", str(orders.processes), "--max-restarts", "0"),
        *("--shutdown-timeout", str(max(1, round(orders.kill_grace_seconds)))),
        *("-m", "workers.rank", orders.rank_module, str(orders.attempt_root)),
    ]


class Guardian:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._exit: int | None = None
        self._child: int | None = None
        self._terminated = False

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_term)
        proctree.become_subreaper()
        lock = self._lock()
        if lock is None:
            return LOCKED
        try:
            return self._guard()
        finally:
            os.close(lock)

    def _on_term(self, *_: object) -> None:
        self._terminated = True

    def _lock(self) -> int | None:
        """The job's flock, or ``None`` when it was not to be had or nobody wants it any more."""
        self._orders.lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._orders.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + self._orders.lock_wait_seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if self._order(0.05) is not None or time.monotonic() > deadline:
                    os.close(fd)
                    return None

    def _order(self, wait_seconds: float) -> str | None:
        """Next order from the leash: ``T``, ``K``, ``""`` (end of file), or ``None`` for none."""
        if self._terminated:
            return "T"
        ready, _, _ = select.select([0], [], [], wait_seconds)
        return os.read(0, 1).decode() if ready else None

    def _reaped(self, ended: dict[int, int]) -> None:
        if self._child in ended:
            self._exit = ended[self._child]

    def _guard(self) -> int:
        files = AttemptFiles(self._orders.attempt_root)
        files.logs.mkdir(parents=True, exist_ok=True)
        me = os.getpid()
        with open(files.logs / "torchrun.log", "ab") as log:
            self._child = subprocess.Popen(
                torchrun(self._orders),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {GUARDIAN_VARIABLE: str(me)},
                preexec_fn=lambda: proctree.die_with_parent(me),  # this process has one thread
            ).pid
        while self._exit is None:
            order = self._order(0.1)
            self._reaped(proctree.reap_children())
            if order is None:
                continue
            grace = self._orders.kill_grace_seconds if order == "T" else ORPHAN_GRACE_SECONDS
            proctree.end_tree(order != "K", grace, self._reaped)
        proctree.end_tree(True, ORPHAN_GRACE_SECONDS, self._reaped)  # whatever outlived torchrun
        shutil.rmtree(files.caches, ignore_errors=True)  # ranks that were killed left theirs
        return self._exit if self._exit >= 0 else 128 - self._exit


if __name__ == "__main__":
    sys.exit(Guardian(Orders.model_validate_json(sys.argv[1])).run())
