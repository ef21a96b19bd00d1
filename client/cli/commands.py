"""Commands that change what is frozen, and the list of those that were sent."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli.context import Format, JobId, Output, Quiet, state
from client.cli.output import age, emit, emit_pairs
from client.flows import Json

Units = Annotated[list[str], typer.Argument(metavar="UNIT...", help="Names, as `smartfrz freeze JOB` shows them.")]
MaybeUnits = Annotated[list[str] | None, typer.Argument(metavar="[UNIT...]", help="Everything if none is named.")]


def thaw(
    ctx: typer.Context, job_id: JobId, units: MaybeUnits = None, output: Output = Format.table, quiet: Quiet = False
) -> None:
    """Train units again that are frozen."""
    send(ctx, job_id, "thaw", units or None, output, quiet)


def pin(ctx: typer.Context, job_id: JobId, units: Units, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Keep units in training, whatever the policy says."""
    send(ctx, job_id, "pin", units, output, quiet)


def unpin(ctx: typer.Context, job_id: JobId, units: Units, output: Output = Format.table, quiet: Quiet = False) -> None:
    """Leave pinned units to the policy again."""
    send(ctx, job_id, "unpin", units, output, quiet)


def commands(
    ctx: typer.Context,
    job_id: JobId,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 100,
    after: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Freeze, thaw, pin and unpin commands, oldest first, and what became of them."""
    with state(ctx).client() as client:
        page = client.commands(job_id, limit=limit, after=after)
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(command["id"] for command in page["data"]),
        columns=("ID", "ACTION", "UNITS", "STATE", "STEP", "AGE", "ERROR"),
        rows=(_row(command) for command in page["data"]),
    )


def send(ctx: typer.Context, job_id: str, action: str, units: list[str] | None, output: Output, quiet: bool) -> None:
    """Send one command and print it."""
    with state(ctx).client() as client:
        command = client.command(job_id, action, units)
    if quiet:
        typer.echo(command["id"])
        return
    pairs = [(name, command.get(name)) for name in ("id", "action", "state")] + [("units", _units(command))]
    emit_pairs(command, pairs, output=output)


def _row(command: Json) -> tuple[object, ...]:
    step, error = command.get("applied_at_step"), command.get("error")
    return command["id"], command["action"], _units(command), command["state"], step, age(command["created_at"]), error


def _units(command: Json) -> str:
    return "everything" if command.get("units") is None else ", ".join(command["units"])
