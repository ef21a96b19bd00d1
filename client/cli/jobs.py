"""Commands about one job or many: submit, ls, get, wait, cancel, delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from client.api import Client
from client.cli.context import (
    BY_STATUS,
    CANCELLED,
    FAILED,
    TIMEOUT,
    USAGE,
    Format,
    JobId,
    Output,
    Quiet,
    exit_code,
    explain,
    fail,
    state,
)
from client.cli.follow import come_back, end_code, follow_to_end
from client.cli.lines import progress_words, status_line
from client.cli.output import age, duration, emit, emit_pairs, measure
from client.cli.specfile import SpecFileError, load_spec
from client.errors import ApiError, WaitTimeout
from client.flows import Json
from client.patience import is_away
from workers.jobs.record import TERMINAL

JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]


def submit(
    ctx: typer.Context,
    spec_file: Annotated[str, typer.Argument(metavar="SPEC", help="JSON or TOML file, or - for JSON on stdin.")],
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=VALUE", help="Override one field.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show it live until it ends.")] = False,
    validate_only: Annotated[bool, typer.Option(help="Check the spec, create nothing.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="Same key and spec: the same job.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Submit a job. With --follow the exit code is that of `wait`; -o json and -q send the following to stderr."""
    try:
        spec = load_spec(spec_file, sets or ())
    except SpecFileError as error:
        raise fail(str(error), USAGE) from None
    with state(ctx).client() as client:
        answer = client.submit(spec, idempotency_key=idempotency_key, validate_only=validate_only)
        if validate_only:
            if output is Format.json:
                emit_pairs(answer, (), output=output)
            elif not quiet:
                typer.echo("the spec is valid")
            return
        show_job(answer, output, quiet)
        if follow:
            aside = quiet or output is Format.json
            raise typer.Exit(end_code(follow_to_end(client, answer["id"], aside=aside)))


def ls(
    ctx: typer.Context,
    status: Annotated[list[str] | None, typer.Option("-s", "--status", help="Only these; repeat.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """List jobs, newest first."""
    with state(ctx).client() as client:
        page = client.list(limit=limit, after=after, status=status or (), name=name)
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(job["id"] for job in page["data"]),
        columns=("ID", "NAME", "STATUS", "STEP", "FROZEN", "AGE"),
        rows=(_row(job) for job in page["data"]),
    )
    if page.get("has_more") and output is Format.table and not quiet:
        typer.echo(f"more: smartfrz ls --after {page['last_id']}", err=True)


def get(ctx: typer.Context, job_id: JobId, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Show one job."""
    with state(ctx).client() as client:
        show_job(client.get(job_id), output, quiet)


def cancel(ctx: typer.Context, job_ids: JobIds, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Ask jobs to stop, whatever they are doing. A repeat is no error, and a refusal holds up no other job."""

    def cancel_one(client: Client, job_id: str) -> None:
        job = client.cancel(job_id)
        if output is Format.json:
            show_job(job, output, quiet)
        else:
            typer.echo(job["id"] if quiet else f"{job['id']} {status_line(job)}")

    _each(ctx, job_ids, cancel_one)


def delete(ctx: typer.Context, job_ids: JobIds, quiet: Quiet = False) -> None:
    """Delete jobs that have ended, or whose record cannot be read, with all their files. There is no way back."""

    def delete_one(client: Client, job_id: str) -> None:
        client.delete(job_id)
        typer.echo(job_id if quiet else f"{job_id} deleted")

    _each(ctx, job_ids, delete_one)


def _each(ctx: typer.Context, job_ids: Sequence[str], do: Callable[[Client, str], None]) -> None:
    """Do it to every job; those that refuse are told on stderr, and the exit code is that of the first of them."""
    code = 0
    with state(ctx).client() as client:
        for job_id in job_ids:
            try:
                do(client, job_id)
            except ApiError as error:
                if is_away(error):
                    raise
                typer.echo(explain(error), err=True)
                code = code or exit_code(error)
    if code:
        raise typer.Exit(code)


def wait(
    ctx: typer.Context,
    job_ids: JobIds,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds, for all together.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Wait until jobs have ended; one that is not there holds up no other.

    Exits 0 if all succeeded, 1 failed or not there, 3 cancelled, 4 timeout, 5 service away.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    codes = []
    with state(ctx).client() as client:
        for job_id in job_ids:
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            try:
                with come_back(f"wait {' '.join(job_ids)}", job_id):
                    job = client.wait(job_id, timeout=left)
            except WaitTimeout as error:
                typer.echo(str(error), err=True)
                codes.append(TIMEOUT)
                continue
            except ApiError as error:
                if is_away(error):
                    raise
                typer.echo(explain(error), err=True)
                codes.append(FAILED)
                continue
            codes.append(BY_STATUS[job["status"]])
            if output is Format.json:
                show_job(job, output, quiet)
            else:
                typer.echo(job["id"] if quiet else f"{job['id']} {status_line(job)}")
    raise typer.Exit(next((code for code in (FAILED, CANCELLED, TIMEOUT) if code in codes), 0))


def show_job(job: Json, output: Format, quiet: bool) -> None:
    if quiet:
        typer.echo(job["id"])
        return
    emit_pairs(job, _pairs(job), output=output)


def _row(job: Json) -> tuple[object, ...]:
    progress = job.get("progress") or {}
    steps = f"{progress['step']}/{progress['total_steps']}" if progress.get("total_steps") else ""
    frozen = f"{progress['frozen_units']}/{progress['units']}" if progress.get("units") else ""
    failed = f"failed ({job['status_reason']})" if job["status"] == "failed" and job.get("status_reason") else None
    return job["id"], job["name"], failed or job["status"], steps, frozen, age(job["created_at"])


def _pairs(job: Json) -> list[tuple[str, object]]:
    spec: dict[str, Any] = job.get("spec") or {}
    durations = job.get("durations") or {}
    pairs: list[tuple[str, object]] = [
        ("id", job["id"]),
        ("name", job.get("name")),
        ("status", status_line(job)),
        ("progress", None if job["status"] in TERMINAL | {"queued"} else progress_words(job) or None),
        ("attempt", f"{job['attempt']} of {job.get('max_attempts')}" if job.get("attempt") else None),
        ("model", (spec.get("model") or {}).get("name")),
        ("data", (spec.get("data") or {}).get("name")),
        ("policy", (spec.get("freeze") or {}).get("policy")),
        ("worker", job.get("worker_id")),
        ("created", job.get("created_at")),
        ("ended", job.get("ended_at")),
        ("running", duration(durations.get("running_seconds")) if job.get("attempt") else None),
    ]
    return pairs + [
        (name, measure(name, value))
        for name, value in (job.get("summary") or {}).items()
        if not isinstance(value, dict | list)
    ]
