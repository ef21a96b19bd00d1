"""``/v1/jobs/{id}/metrics``: series over optimizer steps."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.deps import JobId, JobsDep, render
from api.files import read_metrics
from api.schemas import MetricsView, Series
from api.series import to_series
from workers.jobs.layout import JobFiles

router = APIRouter(prefix="/v1/jobs/{job_id}/metrics", tags=["metrics"])


def _load(files: JobFiles, names: list[str], max_points: int) -> list[Series]:
    rows, expected = read_metrics(files)
    return to_series(rows, names=names, max_points=max_points, expected=expected)


@router.get("", response_model=MetricsView)
async def metrics(
    job_id: JobId,
    jobs: JobsDep,
    name: Annotated[list[str] | None, Query(description="Repeat it for several; all if absent.")] = None,
    max_points: Annotated[int, Query(ge=4, le=20_000, description="Per series; keeps minima and maxima.")] = 1000,
) -> Response:
    """Every metric as columns. A resumed attempt supersedes what earlier ones wrote from its first step on."""
    await jobs.store.get(job_id)
    series = await anyio.to_thread.run_sync(_load, jobs.files(job_id), name or [], max_points)
    return render(MetricsView(job_id=job_id, series=series))
