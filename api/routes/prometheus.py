"""``/metrics`` in the text format of Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from api.deps import JobsDep
from api.telemetry import CONTENT_TYPE, Telemetry, render_store

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, jobs: JobsDep) -> Response:
    """Gauges and totals read from the store now, and the durations of this process's requests."""
    telemetry = request.app.state.telemetry
    assert isinstance(telemetry, Telemetry)
    stored = await render_store(jobs.store)
    return Response(stored + telemetry.render(), media_type=CONTENT_TYPE)
