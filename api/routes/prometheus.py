"""``/metrics`` in the text format of Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from api.deps import JobsDep
from api.telemetry import CONTENT_TYPE, Telemetry, render_gauges

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, jobs: JobsDep) -> Response:
    """Gauges read from the store now, and the durations of this process's requests."""
    telemetry = request.app.state.telemetry
    assert isinstance(telemetry, Telemetry)
    gauges = await render_gauges(jobs.store)
    return Response(gauges + telemetry.render(), media_type=CONTENT_TYPE)
