"""``/v1/jobs/{id}/artifacts``: what training left: weights, reports."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter
from starlette.responses import Response

from api.deps import JobId, JobsDep, render
from api.download import Download
from api.errors import not_found
from api.files import NoSuchFile, find_artifact, list_artifacts
from api.schemas import ArtifactView, Page
from api.views import page

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"])
_FILE: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("", response_model=Page[ArtifactView])
async def index(job_id: JobId, jobs: JobsDep) -> Response:
    """Files of the newest attempt that has any, by path."""
    await jobs.store.get(job_id)
    found = await anyio.to_thread.run_sync(list_artifacts, jobs.files(job_id))
    views = (
        ArtifactView(
            path=a.path,
            size_bytes=a.size,
            modified_at=a.modified_at,
            url=f"/v1/jobs/{job_id}/artifacts/{quote(a.path)}",
        )
        for a in found
    )
    return render(page(views, lambda artifact: artifact.path))


@router.get(
    "/{path:path}",
    response_class=Response,
    responses={
        200: {"content": _FILE, "description": "The file."},
        206: {"content": _FILE, "description": "The part that Range asks for."},
        416: {"description": "RANGE_NOT_SATISFIABLE: the range lies outside the file."},
    },
)
async def content(job_id: JobId, path: str, jobs: JobsDep) -> Response:
    """One file, as an attachment. ``Range`` and ``If-Range`` are honoured; a malformed range is ignored."""
    await jobs.store.get(job_id)
    try:
        file = await anyio.to_thread.run_sync(find_artifact, jobs.files(job_id), path)
    except NoSuchFile as error:
        raise not_found(str(error), "ARTIFACT_NOT_FOUND") from error
    # An attachment, never shown: a page written by user code must not run with the reader's rights.
    return Download(file, filename=file.name, headers={"X-Content-Type-Options": "nosniff"})
