"""Which job fits which worker: pure, shared by the runner that claims and the reaper that explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from workers.jobs.record import JobRecord, WorkerInfo
from workers.jobs.spec import ResourcesSpec

Device = Literal["cpu", "cuda"]


def device_of(resources: ResourcesSpec, worker: WorkerInfo) -> Device | None:
    """The device a worker would run the job on, ``None`` when it has none such. ``auto`` takes CUDA where it is."""
    cuda = any(name.startswith("cuda") for name in worker.devices)
    if resources.device == "auto":
        return "cuda" if cuda else "cpu"
    if resources.device == "cuda":
        return "cuda" if cuda else None
    return "cpu"


def offers(resources: ResourcesSpec, worker: WorkerInfo) -> int:
    """Ranks that a worker can run for such a job at most: one a GPU, or its capacity on the CPU."""
    device = device_of(resources, worker)
    if device is None:
        return 0
    if device == "cuda":
        return sum(name.startswith("cuda") for name in worker.devices)
    return worker.max_processes


def fits(record: JobRecord, worker: WorkerInfo) -> bool:
    return record.spec.resources.processes_per_worker <= offers(record.spec.resources, worker)


def choose(queued: Sequence[JobRecord], worker: WorkerInfo) -> JobRecord | None:
    """First job of the queue (in its order) that fits the worker."""
    return next((record for record in queued if fits(record, worker)), None)


def why_waiting(record: JobRecord, workers: Sequence[WorkerInfo], now: float) -> str | None:
    """Why a queued job waits, ``code: sentence``; ``None`` when a worker could take it now (Unix seconds)."""
    if not workers:
        return "no_workers: no worker is running"
    resources = record.spec.resources
    largest = max(offers(resources, worker) for worker in workers)
    if largest == 0:
        return f"no_worker_fits: needs a {resources.device} device, no worker has one"
    if resources.processes_per_worker > largest:
        return f"no_worker_fits: needs {resources.processes_per_worker} processes, the largest worker offers {largest}"
    fitting = [worker for worker in workers if fits(record, worker)]
    blocked = [worker for worker in fitting if worker.state == "blocked"]
    if len(blocked) == len(fitting):
        return f"workers_blocked: every worker that fits is in trouble; {blocked[0].host}: {blocked[0].trouble}"
    if all(worker.state != "idle" for worker in fitting):
        return "workers_busy: every worker that fits is busy"
    if record.held_back(now):
        return f"held_back: the last try did not begin, another comes soon; {record.status_message}"
    return None
