"""``/v1/jobs/{id}/freeze``: what is frozen now, and every decision that led there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from api.deps import JobId, JobsDep, Limit, render
from api.schemas import DecisionView, FreezeView, Page
from api.views import content_etag, decision_view, freeze_view, matches_etag, page

router = APIRouter(prefix="/v1/jobs/{job_id}/freeze", tags=["freeze"])


@router.get("", response_model=FreezeView, responses={304: {"description": "As If-None-Match has it."}})
async def status(job_id: JobId, jobs: JobsDep, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Every unit with its state, the plan and the savings. The shape is the same before training starts."""
    record = await jobs.store.get(job_id)
    body = freeze_view(record, await jobs.store.get_freeze(job_id))
    headers = {"ETag": content_etag(body), "Cache-Control": "no-cache"}
    if not record.terminal:
        headers["Retry-After"] = str(jobs.settings.retry_after_seconds)
    if matches_etag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return render(body, headers=headers)


@router.get("/history", response_model=Page[DecisionView])
async def history(
    job_id: JobId,
    jobs: JobsDep,
    limit: Limit,
    after: Annotated[int, Query(ge=0, le=2**53, description="seq of the last decision of the page before.")] = 0,
) -> Response:
    """Decisions, oldest first. ``superseded``: undone by a resume from an earlier checkpoint, and decided again."""
    await jobs.store.get(job_id)
    decisions = await jobs.store.decisions(job_id, after=after, limit=limit + 1)
    found = map(decision_view, decisions[:limit])
    return render(page(found, lambda decision: str(decision.seq), has_more=len(decisions) > limit))
