"""``/v1/jobs/{id}/layers/{name}/trajectory``: the recorded window of one unit."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Path
from starlette.responses import Response

from api.deps import JobId, JobsDep, render
from api.errors import not_found
from api.schemas import TrajectoryView
from api.trajectory import summarize

router = APIRouter(prefix="/v1/jobs/{job_id}/layers", tags=["freeze"])


@router.get("/{name:path}/trajectory", response_model=TrajectoryView)
async def trajectory(
    job_id: JobId,
    name: Annotated[str, Path(description="The unit's name; it may hold dots and slashes.")],
    jobs: JobsDep,
    values: bool = False,
) -> Response:
    """Snapshots of the unit's sampled weights, oldest first: the window that the policy looks at.

    It is kept for about an hour after the attempt has ended, then it is empty."""
    await jobs.store.get(job_id)
    window = await jobs.windows.read(job_id, name)
    if not window:
        status = await jobs.store.get_freeze(job_id) or {}
        if all(unit.get("name") != name for unit in status.get("units", [])):
            raise not_found(f"job {job_id} has no unit {name!r}; see /v1/jobs/{job_id}/freeze", "UNIT_NOT_FOUND")
    points = await anyio.to_thread.run_sync(lambda: summarize(window, values=values))
    return render(TrajectoryView(job_id=job_id, unit=name, window=points))
