from __future__ import annotations

import time
from pathlib import Path

from workers.devices import DevicePool
from workers.jobs.memory import MemoryJobStore
from workers.jobs.record import WorkerInfo
from workers.registry import Heartbeat, current, describe
from workers.shared import Board


def test_a_worker_tells_its_state_job_and_devices(tmp_path: Path) -> None:
    info, board = describe(DevicePool(tmp_path, [], 3), now=5.0), Board()
    assert (info.devices, info.max_processes, info.started_at) == (["cpu"], 3, 5.0)
    assert info.id != describe(DevicePool(tmp_path, [], 3)).id
    assert (current(info, board, 6.0).state, current(info, board, 6.0).heartbeat_at) == ("idle", 6.0)
    board.job_id = "job_1"
    assert (current(info, board, 6.0).state, current(info, board, 6.0).job_id) == ("busy", "job_1")
    board.draining = True
    assert current(info, board, 6.0).state == "draining"
    board.job_id = None
    assert current(info, board, 6.0).job_id is None


def test_an_idle_worker_in_trouble_is_blocked_and_says_why(tmp_path: Path) -> None:
    info, board = describe(DevicePool(tmp_path, [], 3)), Board()
    board.trouble = "cannot write to /data/jobs: Read-only file system"
    told = current(info, board, 6.0)
    assert (told.state, told.trouble) == ("blocked", "cannot write to /data/jobs: Read-only file system")
    board.job_id = "job_1"
    assert (current(info, board, 6.0).state, current(info, board, 6.0).trouble) == ("busy", None)
    board.job_id = board.trouble = None
    assert (current(info, board, 6.0).state, current(info, board, 6.0).trouble) == ("idle", None)


def test_the_board_keeps_its_entries_apart_and_cuts_what_is_too_long() -> None:
    board = Board()
    board.trouble, board.job_id, board.false_starts, board.rest_until = "ü" * 1000, "job_1", 300, 12.5
    assert (board.job_id, board.false_starts, board.rest_until, board.draining) == ("job_1", 255, 12.5, False)
    assert board.trouble == "ü" * 384


def test_it_registers_shows_changes_soon_and_deregisters(tmp_path: Path) -> None:
    class Store(MemoryJobStore):
        broken = False

        def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> None:
            if self.broken:
                raise RuntimeError("a bug")
            super().put_worker(worker, ttl_seconds)

    store, board = Store(), Board()
    info = describe(DevicePool(tmp_path, [], 2))
    heartbeat = Heartbeat(store, info, board, ttl_seconds=60, interval_seconds=30)
    heartbeat.start()

    def until(state: str) -> None:
        deadline = time.monotonic() + 20
        while [worker.state for worker in store.workers()] != [state]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    until("idle")
    board.job_id = "job_1"
    until("busy")
    store.available = False
    board.job_id = None
    time.sleep(0.3)  # heartbeats fail meanwhile; the thread must live on
    store.available = True
    until("idle")
    board.trouble = "no room"
    until("blocked")
    board.trouble = None
    until("idle")
    store.broken = True
    board.job_id = "job_2"
    time.sleep(0.3)
    store.broken = False
    until("busy")
    heartbeat.stop()
    assert list(store.workers()) == []
