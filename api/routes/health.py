"""``/livez``, ``/readyz``: the probes, open to all."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import JobsDep, render
from api.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=Health)
async def livez() -> Response:
    """The process answers. Asks nobody else: a dead store is no reason to restart the API."""
    return render(Health())


@router.get("/readyz", response_model=Health)
async def readyz(jobs: JobsDep) -> Response:
    """The job store answers too; 503 where it does not."""
    await jobs.store.ping()
    return render(Health())
