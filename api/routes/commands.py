"""``/v1/jobs/{id}/freeze/commands``: freeze, thaw, pin and unpin by hand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from api.deps import JobId, JobsDep, Limit, render
from api.schemas import CommandBody, CommandView, Page
from api.strict_json import strict_json
from api.views import command_view, page

router = APIRouter(prefix="/v1/jobs/{job_id}/freeze/commands", tags=["freeze"])


@router.post(
    "",
    status_code=202,
    response_model=CommandView,
    dependencies=[Depends(strict_json)],
    responses={409: {"description": "ILLEGAL_TRANSITION: the job has ended."}},
)
async def create(
    job_id: JobId,
    body: CommandBody,
    jobs: JobsDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[\x21-\x7e]{1,255}$",
            description="The same key and body within 24 h give the command made first; another body is a 422.",
        ),
    ] = None,
) -> Response:
    """Order a change of what is frozen. All ranks apply it after the same step, about a second later; that of a job
    that is not training yet, before its first step. The outcome is in the list, and in the event stream as
    ``command.applied`` or ``command.refused``."""
    command, record, is_new = await jobs.command(job_id, body.action, body.units, idempotency_key=idempotency_key)
    headers = {} if is_new else {"Idempotent-Replayed": "true"}
    return render(command_view(record, command), status=202, headers=headers)


@router.get("", response_model=Page[CommandView])
async def list_commands(
    job_id: JobId,
    jobs: JobsDep,
    limit: Limit,
    after: Annotated[str | None, Query(pattern=r"^cmd_[0-9]{1,15}$", description="last_id of the page before")] = None,
) -> Response:
    """Commands, oldest first, each with its outcome."""
    record = await jobs.store.get(job_id)
    seq = int(after.removeprefix("cmd_")) if after is not None else 0
    found = await jobs.store.commands(job_id, after=seq, limit=limit + 1)
    views = (command_view(record, command) for command in found[:limit])
    return render(page(views, lambda command: command.id, has_more=len(found) > limit))
