"""``smartfrz compare``: workloads x arms x seeds, with tables and plots."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.context import FAILED, INTERRUPTED, USAGE, State, fail, state
from client.cli.data import Dest, folder_of
from client.cli.output import console

if TYPE_CHECKING:
    from client.compare import Folder, Outcome, Run


def compare(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="JSON or TOML; with --report-only that of the folder if absent."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs, tables and plots.")] = Path("runs/compare"),
    workers: Annotated[
        int, typer.Option(min=1, help="Jobs at a time. More than one on one machine spoils wall times.")
    ] = 1,
    again: Annotated[bool, typer.Option("--again", help="Run what has succeeded too.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; remake tables and plots.")] = False,
    dest: Dest = None,
) -> None:
    """Run every workload with every arm and seed, each as a job, and compare them with full training.

    Without `smartfrz --url ... compare` (or SMARTFRZ_URL) a private stack is started, and stopped in the end. What has
    a report under OUT is not run again, so that a broken comparison goes on with the same command.
    """
    from client.compare import ComparisonError, Folder, PlotsMissing, analyse, expand, load, write
    from client.files import FolderInUse, sole_owner, write_json
    from client.private_stack import StackError
    from workers.packages import DataPackageMissing

    definition = out / "definition.json"
    if source is None and not report_only:
        raise fail("name a comparison file", USAGE)
    if report_only and not definition.exists() and source is None:
        raise fail(f"there is no comparison in {out}: no {definition}", USAGE)
    try:
        comparison = load(source or str(definition))
        runs = expand(comparison)
        with sole_owner(out, "comparison"):
            folder = Folder(out)
            failed = False
            if not report_only:
                write_json(definition, comparison.document)
                failed = bool(_run_all(ctx, runs, folder, workers=workers, again=again, dest=dest).failed)
            document = analyse(comparison, runs, folder.results(runs))
            try:
                write(document, out)
            except PlotsMissing as error:
                typer.echo(f"no plots: {error}", err=True)
    except ComparisonError as error:
        raise fail(f"{source or definition}: {error}", USAGE) from None
    except (FolderInUse, StackError, DataPackageMissing) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        typer.echo(f"\ninterrupted; what has ended is kept in {out}, and the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"{len(document['runs'])} of {len(runs)} runs: {out / 'comparison.md'}")
    unmet = [check for check in document["checks"] if check["ok"] is False]
    for check in unmet:
        typer.echo(f"not met: {check['measure']} {check['bound']}: {check['value']}")
    if failed:
        raise typer.Exit(FAILED)


def _run_all(
    ctx: typer.Context,
    runs: Sequence[Run],
    folder: Folder,
    *,
    workers: int,
    again: bool,
    dest: Path | None,
) -> Outcome:
    """With the service that was named, else with a private one."""
    from client.compare import Outcome, execute
    from client.compare.folder import standing
    from client.compare.progress import ConsoleScreen
    from client.private_stack import forget_job, private_stack

    if all(standing(run, folder.read(run), again=again) == "done" for run in runs):
        return Outcome(before=[run.id for run in runs])
    flags = state(ctx)
    with ConsoleScreen(console()) as screen:
        if named(flags):
            with flags.client() as client:
                screen.note(f"jobs go to {client.connection.url}; Ctrl-C leaves those under way to it")
                return execute(runs, client, folder, workers=workers, again=again, screen=screen)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # TERM stops the private stack too
        packages = folder_of(ctx, dest)
        need_packages(runs, packages)
        ranks = max(ranks_of(run) for run in runs)
        count = "1 worker" if workers == 1 else f"{workers} workers"
        screen.note(f"starting a private stack: store, window store, API, {count}")
        with private_stack(folder.home, packages, workers=workers, ranks=ranks) as stack:
            outcome = execute(
                runs,
                stack.client,
                folder,
                workers=workers,
                again=again,
                screen=screen,
                done=lambda job_id: forget_job(stack.home, job_id),
                healthy=stack.check,
            )
    if not outcome.failed:
        shutil.rmtree(folder.home, ignore_errors=True)  # logs of failed jobs stay
    return outcome


def named(flags: State) -> bool:
    """Whether a running service was named; one that merely runs here is left to its own work."""
    import os

    return bool(flags.url or os.environ.get("SMARTFRZ_URL"))


def ranks_of(run: Run) -> int:
    """DDP ranks that a run asks for."""
    return int((run.spec.get("resources") or {}).get("processes_per_worker", 1))


def need_packages(runs: Sequence[Run], folder: Path) -> None:
    """Raises DataPackageMissing: before anything starts, and with the command that brings it."""
    from workers.jobs.entries import DATASETS, MODELS
    from workers.packages import locate

    for run in runs:
        for table, part in ((DATASETS, "data"), (MODELS, "model")):
            entry = table.get(run.spec[part]["name"])
            if entry is not None and entry.package:
                locate(entry.package, folder)
