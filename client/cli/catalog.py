"""Commands about what the service offers: workers, models, datasets, policies."""

from __future__ import annotations

import typer

from client.cli.context import Format, Output, Quiet, state
from client.cli.output import age, emit
from client.flows import Json


def workers(ctx: typer.Context, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Workers that are alive."""
    with state(ctx).client() as client:
        page = client.workers()
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(worker["id"] for worker in page["data"]),
        columns=("ID", "HOST", "STATE", "DEVICES", "PROCESSES", "JOB", "HEARTBEAT", "TROUBLE"),
        rows=(_worker_row(worker) for worker in page["data"]),
    )


def _worker_row(worker: Json) -> tuple[object, ...]:
    known = worker["id"], worker["host"], worker["state"], ",".join(worker["devices"]), worker["max_processes"]
    return *known, worker["job_id"], age(worker.get("last_heartbeat_at")), worker.get("trouble")


def models(ctx: typer.Context, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Models that can be trained."""
    _catalog(ctx, "models", output, quiet)


def datasets(ctx: typer.Context, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Data sets that can be trained on."""
    _catalog(ctx, "datasets", output, quiet)


def policies(ctx: typer.Context, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Freezing policies."""
    _catalog(ctx, "policies", output, quiet)


def _catalog(ctx: typer.Context, kind: str, output: Output, quiet: bool) -> None:
    with state(ctx).client() as client:
        page = client.catalog(kind)
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(entry["name"] for entry in page["data"]),
        columns=("NAME", "DESCRIPTION", "OPTIONS"),
        rows=((entry["name"], entry.get("description"), _options(entry)) for entry in page["data"]),
    )


def _options(entry: Json) -> str:
    return ", ".join((entry.get("schema") or {}).get("properties") or ())
