"""``smartfrz demo``: the whole path once, on real data, with what it saved."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from client.cli.context import FAILED, INTERRUPTED, USAGE, fail
from client.cli.data import Dest, folder_of
from client.cli.output import console
from client.cli.specfile import SpecFileError
from workers import packages


def demo(
    ctx: typer.Context,
    short: Annotated[
        bool, typer.Option("--short", help="Fewer samples, for CI: the same path in little time.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the report and the private state.")] = Path("runs/demo"),
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=VALUE", help="Override the job.")] = None,
    dest: Dest = None,
) -> None:
    """Fine-tune MiniLM-L6 on 20 Newsgroups on two ranks, freeze what converges, and show what that saved."""
    from client.demo.run import DemoError, run_demo
    from client.demo.spec import PACKAGES, demo_spec
    from client.files import FolderInUse
    from client.private_stack import StackError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # TERM stops the private stack too
    folder = folder_of(ctx, dest)
    try:
        for name in PACKAGES:
            packages.locate(name, folder)
        spec = demo_spec(short=short, overrides=tuple(sets or ()))
        report = run_demo(spec=spec, out=out, packages_dir=folder, short=short, console=console())
    except SpecFileError as error:
        raise fail(str(error), USAGE) from None
    except (DemoError, FolderInUse, StackError, packages.DataPackageMissing) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the private stack is stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if report["status"] != "succeeded":
        raise typer.Exit(FAILED)
