"""Commands that look inside a job: freeze, history, metrics, artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli.commands import send
from client.cli.context import Format, JobId, Output, Quiet, fail, state
from client.cli.lines import cache_words
from client.cli.output import age, byte_size, emit, measure
from client.flows import Json

artifacts = typer.Typer(no_args_is_help=True, help="What a job made: model, report, ...")


def freeze(
    ctx: typer.Context,
    job_id: JobId,
    units: Annotated[list[str] | None, typer.Argument(metavar="[UNIT...]", help="Freeze these.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Freeze units; without any, show what is frozen and what that saves. With -q: names of the frozen units."""
    if units:
        send(ctx, job_id, "freeze", units, output, quiet)
        return
    with state(ctx).client() as client:
        status = client.freeze(job_id)
    rows = status.get("units") or []
    frozen = [unit["name"] for unit in rows if unit["state"] == "frozen"]
    emit(
        status,
        output=output,
        quiet=quiet,
        ids=frozen,
        title=f"{status.get('policy')}, step {status.get('step')}: {len(frozen)} of {len(rows)} units frozen",
        columns=("#", "UNIT", "STATE", "PROBABILITY", "FROZEN AT", "PARAMETERS", "WINDOW"),
        rows=(_unit_row(unit) for unit in rows),
    )
    if output is Format.table and not quiet:
        if status.get("cache"):
            typer.echo(f"\n{cache_words(status['cache'])}")
        costs = [
            (name.replace("_", " "), measure(name, value), kind)
            for kind, values in (status.get("savings") or {}).items()
            for name, value in values.items()
            if isinstance(value, int | float)
        ]
        if costs:
            typer.echo()
            emit(status, output=output, columns=("FIGURE", "VALUE", "SOURCE"), rows=costs)


def _unit_row(unit: Json) -> tuple[object, ...]:
    names = ("index", "name", "state", "probability", "frozen_at_step", "parameters", "window_filled")
    return tuple(unit.get(name) for name in names)


def history(
    ctx: typer.Context,
    job_id: JobId,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 100,
    after: Annotated[int | None, typer.Option(help="Only decisions with a higher seq.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Freezing decisions, oldest first."""
    with state(ctx).client() as client:
        page = client.history(job_id, limit=limit, after=after)
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(str(decision["seq"]) for decision in page["data"]),
        columns=("SEQ", "STEP", "FROZEN", "THAWED", "CAUSE", "PLAN", "SUPERSEDED"),
        rows=(_decision_row(decision) for decision in page["data"]),
    )


def _decision_row(decision: Json) -> tuple[object, ...]:
    names = [", ".join(map(str, decision.get(kind) or ())) for kind in ("frozen", "thawed")]
    plan = str(decision.get("plan_hash") or "")[:12]
    cause = decision.get("cause")
    return decision["seq"], decision["step"], *names, cause, plan, "yes" if decision.get("superseded") else ""


def metrics(
    ctx: typer.Context,
    job_id: JobId,
    max_points: Annotated[int | None, typer.Option(min=4, help="Thin each series to so many points.")] = None,
    output: Output = Format.table,
    quiet: Quiet = False,
) -> None:
    """Series of a job in short; all points with -o json."""
    with state(ctx).client() as client:
        document = client.metrics(job_id, max_points=max_points)
    emit(
        document,
        output=output,
        quiet=quiet,
        ids=(series["name"] for series in document["series"]),
        columns=("METRIC", "POINTS", "LAST STEP", "LAST", "MIN", "MAX"),
        rows=(_series_row(series) for series in document["series"]),
    )


def _series_row(series: Json) -> tuple[object, ...]:
    finite = [value for value in series["values"] if value is not None]
    last = series["values"][-1] if series["values"] else None
    step = series["steps"][-1] if series["steps"] else None
    return series["name"], series["points"], step, last, min(finite, default=None), max(finite, default=None)


@artifacts.command("list")
def list_artifacts(ctx: typer.Context, job_id: JobId, output: Output = Format.table, quiet: Quiet = False) -> None:
    """List what a job made."""
    with state(ctx).client() as client:
        page = client.artifacts(job_id)
    emit(
        page,
        output=output,
        quiet=quiet,
        ids=(entry["path"] for entry in page["data"]),
        columns=("PATH", "SIZE", "AGE"),
        rows=((entry["path"], byte_size(entry["size_bytes"]), age(entry["modified_at"])) for entry in page["data"]),
    )


@artifacts.command("download")
def download(
    ctx: typer.Context,
    job_id: JobId,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", help="All if none is named.")] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")] = Path("."),
    quiet: Quiet = False,
) -> None:
    """Download artifacts."""
    with state(ctx).client() as client:
        wanted = paths or [entry["path"] for entry in client.artifacts(job_id)["data"]]
        if not wanted:
            raise fail(f"{job_id} has no artifacts")
        for path in wanted:
            target = inside(to, path)
            client.download(job_id, path, target)
            typer.echo(str(target) if quiet else f"{path} -> {target}")


def inside(folder: Path, path: str) -> Path:
    """``folder/path``, refused when it would lie outside: the name came over the network."""
    target = folder / path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise fail(f"artifact {path!r} would be written outside {folder}")
    return target
