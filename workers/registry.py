"""Who this worker is, and the thread that says so: ``WorkerInfo`` with a TTL, from the worker's main process."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time

from workers.devices import DevicePool
from workers.jobs.errors import StoreUnavailable
from workers.jobs.ports import JobStore
from workers.jobs.record import WorkerInfo
from workers.shared import Board

logger = logging.getLogger(__name__)


def describe(pool: DevicePool, now: float | None = None) -> WorkerInfo:
    """This process as a worker. The id holds host, pid and a random part: containers repeat the first two."""
    host, pid = socket.gethostname(), os.getpid()
    at = time.time() if now is None else now
    return WorkerInfo(
        id=f"{host}:{pid}:{secrets.token_hex(2)}",
        host=host,
        pid=pid,
        devices=pool.names,
        max_processes=pool.max_processes,
        started_at=at,
        heartbeat_at=at,
    )


def current(info: WorkerInfo, board: Board, now: float) -> WorkerInfo:
    """The heartbeat of this moment."""
    job, trouble = board.job_id, board.trouble
    state = "draining" if board.draining else "busy" if job else "blocked" if trouble else "idle"
    shown = trouble if state == "blocked" else None
    return info.model_copy(update={"state": state, "job_id": job, "trouble": shown, "heartbeat_at": now})


class Heartbeat:
    """Registers a worker every ``interval_seconds`` and at each change of its state, until :meth:`stop`.

    Args:
        ttl_seconds: after so long without a heartbeat the store forgets the worker.
    """

    def __init__(
        self, store: JobStore, info: WorkerInfo, board: Board, *, ttl_seconds: float, interval_seconds: float
    ) -> None:
        self._store, self._info, self._board = store, info, board
        self._ttl, self._interval = ttl_seconds, interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Deregister."""
        self._stopped.set()
        self._thread.join(timeout=5.0)
        try:
            self._store.remove_worker(self._info.id)
        except StoreUnavailable as error:
            logger.info("not deregistered, the entry will expire: %s", error)

    def _run(self) -> None:
        last: tuple[bool, str | None, str | None] | None = None
        due = 0.0
        while not self._stopped.is_set():
            seen = (self._board.draining, self._board.job_id, self._board.trouble)
            if seen != last or time.monotonic() >= due:
                try:
                    self._store.put_worker(current(self._info, self._board, self._store.now()), self._ttl)
                    last, due = seen, time.monotonic() + self._interval
                except Exception as error:  # a thread that ends unseen would make a living worker look dead
                    logger.warning("heartbeat not sent: %s", error, exc_info=not isinstance(error, StoreUnavailable))
                    due = time.monotonic() + min(1.0, self._interval)
            self._stopped.wait(min(0.2, self._interval))
