"""``/v1/workers``, ``/v1/queues``, ``/v1/version``: the installation itself."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed_version

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import JobsDep, render
from api.schemas import Page, QueuesView, VersionView, WorkerView
from api.views import page, queues_view, worker_view

router = APIRouter(prefix="/v1", tags=["system"])


@router.get("/workers", response_model=Page[WorkerView])
async def workers(jobs: JobsDep) -> Response:
    """Workers that are alive, with their devices and the job that each holds."""
    return render(page(map(worker_view, await jobs.store.workers()), lambda worker: worker.id))


@router.get("/queues", response_model=Page[QueuesView])
async def queues(jobs: JobsDep) -> Response:
    """The queue: how long it is, how old, and why nothing moves."""
    depth = (await jobs.store.counts()).get("queued", 0)
    oldest = await jobs.store.oldest_queued()
    view = queues_view(oldest, depth, await jobs.store.workers(), await jobs.store.now())
    return render(page([view], lambda queue: queue.name))


@router.get("/version", response_model=VersionView)
async def version() -> Response:
    """Versions of the service and of its API."""
    return render(VersionView(version=installed_version("smartfrz"), python_version=platform.python_version()))
