from __future__ import annotations

from typing import Any

import pytest

from workers.jobs.record import JobRecord, WorkerInfo, new_job_id
from workers.jobs.spec import JobSpec
from workers.placement import choose, device_of, fits, offers, why_waiting

CPU = WorkerInfo(id="cpu", host="a", pid=1, devices=["cpu"], max_processes=2, started_at=0, heartbeat_at=0)
GPU = CPU.model_copy(update={"id": "gpu", "devices": ["cuda:0", "cuda:1", "cuda:2"]})
BUSY = CPU.model_copy(update={"state": "busy"})
BLOCKED = CPU.model_copy(update={"state": "blocked", "trouble": "cannot write to /data/jobs"})
NOW = 1000.0


def job(processes: int, device: str = "auto", **fields: Any) -> JobRecord:
    spec: dict[str, Any] = {
        "name": "t",
        "model": {"name": "m"},
        "data": {"name": "d"},
        "resources": {"processes_per_worker": processes, "device": device},
    }
    known = {"spec": JobSpec.model_validate(spec), "created_at": 0.0, "queued_at": 0.0, "updated_at": 0.0}
    return JobRecord.model_validate({"id": new_job_id(), **known, **fields})


HELD = job(1, not_before=NOW + 1, status_message="the worker could not start the attempt")


@pytest.mark.parametrize(
    ("device", "worker", "chosen", "most"),
    [
        ("auto", CPU, "cpu", 2),
        ("auto", GPU, "cuda", 3),
        ("cpu", GPU, "cpu", 2),
        ("cuda", GPU, "cuda", 3),
        ("cuda", CPU, None, 0),
    ],
)
def test_device_and_capacity(device: str, worker: WorkerInfo, chosen: str | None, most: int) -> None:
    resources = job(1, device).spec.resources
    assert device_of(resources, worker) == chosen
    assert offers(resources, worker) == most
    assert fits(job(most + 1, device), worker) is False


def test_the_first_job_that_fits_is_chosen_in_the_queues_order() -> None:
    big, small, other = job(3), job(2), job(1)
    assert choose([big, small, other], CPU) is small
    assert choose([big, small, other], GPU) is big
    assert choose([big], CPU) is None
    assert choose([], CPU) is None


@pytest.mark.parametrize(
    ("record", "workers", "reason"),
    [
        (job(1), [], "no_workers: no worker is running"),
        (job(4), [CPU, BUSY], "no_worker_fits: needs 4 processes, the largest worker offers 2"),
        (job(1, "cuda"), [CPU], "no_worker_fits: needs a cuda device, no worker has one"),
        (job(2), [BUSY], "workers_busy: every worker that fits is busy"),
        (job(3), [CPU, GPU], None),
        (job(2), [BUSY, CPU], None),
        (
            job(1),
            [BLOCKED, BLOCKED],
            "workers_blocked: every worker that fits is in trouble; a: cannot write to /data/jobs",
        ),
        (job(1), [BLOCKED, BUSY], "workers_busy: every worker that fits is busy"),
        (job(1), [BLOCKED, CPU], None),
        (
            HELD,
            [CPU],
            "held_back: the last try did not begin, another comes soon; the worker could not start the attempt",
        ),
        (HELD.model_copy(update={"not_before": NOW}), [CPU], None),
    ],
)
def test_why_a_job_waits(record: JobRecord, workers: list[WorkerInfo], reason: str | None) -> None:
    assert why_waiting(record, workers, NOW) == reason
