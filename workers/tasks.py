"""What Celery runs: one task, a thin shell over :meth:`Runner.work`, and the hooks of the worker's processes.

The main process registers the worker and tells it to look for work now and then; the pool child runs the jobs. They
share a :class:`Board` made before the fork.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from functools import cache
from typing import Any

from celery import shared_task
from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutdown, worker_shutting_down
from celery.utils.nodenames import worker_direct

from workers import proctree
from workers.celery_app import TASK, CeleryWakeUp
from workers.devices import DevicePool, list_gpus
from workers.jobs.errors import StoreUnavailable
from workers.jobs.record import WorkerInfo
from workers.redis_store import RedisJobStore
from workers.registry import Heartbeat, describe
from workers.runner import Runner
from workers.settings import Settings
from workers.shared import Board

logger = logging.getLogger(__name__)


class _Worker:
    """State of one worker: made in the main process before the fork, so that the child has the same."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.main_pid = os.getpid()
        self.board = Board()
        self.pool = DevicePool(self.settings.home.resolve(), list_gpus(), self.settings.worker_processes)
        self.info: WorkerInfo = describe(self.pool)
        self.heartbeat: Heartbeat | None = None

    def store(self) -> RedisJobStore:
        assert self.settings.redis_url is not None, "make_celery has refused a missing URL"
        return RedisJobStore(self.settings.redis_url, self.settings.key_prefix)


@cache
def _worker() -> _Worker:
    return _Worker()


@shared_task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
def work() -> None:
    """Run every queued job that fits this worker."""
    worker = _worker()
    try:
        with closing(worker.store()) as store:
            Runner(store, worker.info, worker.pool, worker.settings, board=worker.board).work()
    except StoreUnavailable as error:
        logger.warning("the store does not answer; the next wake-up tries again: %s", error)


@worker_init.connect  # type: ignore[untyped-decorator]
def _before_fork(**_: Any) -> None:
    _worker()
    # Celery has two lines for every wake-up, one each half minute for ever; the runner tells of jobs.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _in_child(**_: Any) -> None:
    # Kill -9 of the main process must end the child as well; Celery asks for that too, but does not see if it is late.
    proctree.die_with_parent(_worker().main_pid)
    _worker().board.job_id = None  # a child that took the place of a killed one runs nothing yet


@worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(sender: Any, **_: Any) -> None:
    worker = _worker()
    settings = worker.settings
    ttl = settings.lease_seconds
    worker.heartbeat = Heartbeat(
        worker.store(),
        worker.info,
        worker.board,
        ttl_seconds=ttl,
        interval_seconds=min(settings.renew_seconds, ttl / 3),
    )
    worker.heartbeat.start()
    own = CeleryWakeUp(sender.app, worker_direct(sender.hostname).name)  # nobody else can take this message

    def look_for_work() -> None:
        if worker.board.job_id is None and not worker.board.draining:
            own.wake()

    sender.timer.call_repeatedly(settings.wake_seconds, look_for_work)
    look_for_work()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    _worker().board.draining = True


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _gone(**_: Any) -> None:
    heartbeat = _worker().heartbeat
    if heartbeat is not None:
        heartbeat.stop()
