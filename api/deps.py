"""What routes are given."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from api.service import Jobs

JobId = Annotated[str, Path(description="Id of the job.", examples=["job_0199c2f4a1b0c1d2e3f4a"])]


def get_jobs(request: Request) -> Jobs:
    jobs = request.app.state.jobs
    assert isinstance(jobs, Jobs)
    return jobs


JobsDep = Annotated[Jobs, Depends(get_jobs)]


def page_limit(jobs: JobsDep, limit: Annotated[int, Query(ge=1, description="Coerced to the maximum.")] = 20) -> int:
    return min(limit, jobs.settings.page_max)


Limit = Annotated[int, Depends(page_limit)]


def render(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON; numbers that are not finite, which JSON does not know, become null."""
    content = to_json(body, inf_nan_mode="null")
    return Response(content, status_code=status, headers=headers, media_type="application/json")
