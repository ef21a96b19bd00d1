"""A whole service of one command's own: store, window store, API and workers over a fresh home, gone when it ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.api import Client

if TYPE_CHECKING:
    from workers.supervisor import Supervisor


class StackError(Exception):
    """The private stack cannot start or go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running private stack."""

    client: Client
    home: Path
    supervisor: Supervisor

    def check(self) -> None:
        """Raises StackError when no worker stays up: nothing trains, and jobs would wait for ever."""
        workers, failing = self.supervisor.workers, self.supervisor.failing
        if workers and set(workers) <= set(failing):
            raise StackError(f"{', '.join(workers)} died again and again; see {self.home / 'logs'}")


@contextmanager
def private_stack(home: Path, packages_dir: Path, *, workers: int = 1, ranks: int = 2) -> Iterator[Stack]:
    """Start it over an emptied ``home``, whatever store the environment names; stop it when the block ends.

    Args:
        workers: worker processes, each running one job at a time.
        ranks: DDP ranks that a worker may run at once on the CPU.

    Raises:
        StackError: it did not start.
    """
    from workers.settings import Settings
    from workers.supervisor import Supervisor, SupervisorError

    shutil.rmtree(home, ignore_errors=True)
    settings = Settings(
        home=home.absolute(),
        packages_dir=packages_dir.absolute(),
        redis_url=None,
        window_redis_url=None,
        redis_host=None,
        window_redis_host=None,
        worker_processes=ranks,
        stop_grace_seconds=10.0,
    )
    supervisor = Supervisor(settings, "127.0.0.1", 0, workers)
    try:
        supervisor.start()
        with Client(supervisor.url, admin_key(settings.home)) as client:
            yield Stack(client, settings.home, supervisor)
    except SupervisorError as error:
        raise StackError(str(error)) from error
    finally:
        supervisor.stop()


def admin_key(home: Path) -> str:
    """The key that the API of this home uses: the environment goes before the file, for the API too."""
    if key := os.environ.get("SMARTFRZ_ADMIN_KEY"):
        return key
    return Path(os.environ.get("SMARTFRZ_ADMIN_KEY_FILE") or home / "admin.key").read_text(encoding="utf-8").strip()


def forget_job(home: Path, job_id: str) -> None:
    """Remove the files of a finished job, whose report is kept elsewhere: checkpoints and weights fill disks."""
    shutil.rmtree(home / "jobs" / job_id, ignore_errors=True)
