"""``smartfrz compare``: workloads x arms x seeds, with tables and plots."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.context import FAILED, INTERRUPTED, USAGE, State, fail, state
from client.cli.data import Dest, folder_of
from client.cli.output import console

if TYPE_CHECKING:
    from client.compare import Comparison, Folder, Outcome, Run


class Split(StrEnum):
    TEST, TRAIN = "test", "train"


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
    test_from: Annotated[
        Split | None,
        typer.Option(help="train: score on held-out training data, to choose settings on; in an OUT of its own."),
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; remake tables and plots.")] = False,
    dest: Dest = None,
) -> None:
    """Run every workload with every arm and seed, each as a job, and compare them with full training.

    Without `smartfrz --url ... compare` (or SMARTFRZ_URL) a private stack is started, and stopped in the end. What has
    a report under OUT is not run again, so that a broken comparison goes on with the same command.
    """
    from client.compare import ComparisonError, Folder, PlotsMissing, analyse, expand, load, write
    from client.files import FolderInUse, write_json
    from client.private_stack import StackError
    from workers.packages import DataPackageMissing

    definition = out / "definition.json"
    if source is None and not report_only:
        raise fail("name a comparison file", USAGE)
    if report_only and not definition.exists() and source is None:
        raise fail(f"there is no comparison in {out}: no {definition}", USAGE)
    try:
        changes = {} if test_from is None else {"test_from": test_from.value}
        comparison = load(source or str(definition), **changes)
        _keep_apart(comparison, definition)
        runs = expand(comparison)
        folder = Folder(out)
        with nullcontext() if report_only else folder.owned():  # a running one may be looked at
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


def _keep_apart(comparison: Comparison, definition: Path) -> None:
    """Scores on the test split and on held-out training data do not replace each other, nor do their tables."""
    from client.compare import ComparisonError, load

    try:
        before = load(str(definition)).test_from
    except ComparisonError:
        return  # there is none, or none that could be gone on with
    if before != comparison.test_from:
        raise fail(f"{definition.parent} holds runs of --test-from {before}: name another folder with --out", USAGE)


def _run_all(
    ctx: typer.Context, runs: Sequence[Run], folder: Folder, *, workers: int, again: bool, dest: Path | None
) -> Outcome:
    """With the service that was named, else with a private one."""
    from client.compare import Outcome, execute, execute_privately
    from client.compare.progress import ConsoleScreen

    flags = state(ctx)
    with ConsoleScreen(console()) as screen:
        if not named(flags):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # TERM stops the private stack too
            packages = folder_of(ctx, dest)
            return execute_privately(runs, folder, packages, workers=workers, again=again, screen=screen)
        if not folder.unfinished(runs, again=again):
            return Outcome(before=[run.id for run in runs])
        with flags.client() as client:
            screen.note(f"jobs go to {client.connection.url}; Ctrl-C leaves those under way to it")
            return execute(runs, client, folder, workers=workers, again=again, screen=screen)


def named(flags: State) -> bool:
    """Whether a running service was named; one that merely runs here is left to its own work."""
    return bool(flags.url or os.environ.get("SMARTFRZ_URL"))
