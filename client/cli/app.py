"""The root command and the table of commands."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from client.cli import catalog, commands, follow, inspect, jobs
from client.cli.compare import compare
from client.cli.context import Guarded, State
from client.cli.data import data
from client.cli.demo import demo
from client.cli.doctor import doctor
from client.cli.predictor import predictor
from client.cli.up import up

app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train with DDP, freeze what has converged, see what that saved.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"smartfrz {installed_version('smartfrz')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option(help="Base URL; else SMARTFRZ_URL, else <home>/server.json.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Else SMARTFRZ_API_KEY, else <home>/admin.key.")] = None,
    home: Annotated[Path | None, typer.Option(help="State folder; else SMARTFRZ_HOME, else .smartfrz.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,  # noqa: ARG001
) -> None:
    """Flags that go before the command."""
    ctx.obj = State(url=url, key=api_key, home=home)


for _command in (
    up,
    jobs.submit,
    jobs.ls,
    jobs.get,
    inspect.freeze,
    commands.thaw,
    commands.pin,
    commands.unpin,
    commands.commands,
    inspect.history,
    follow.logs,
    follow.events,
    inspect.metrics,
    jobs.wait,
    jobs.cancel,
    jobs.delete,
    catalog.workers,
    catalog.models,
    catalog.datasets,
    catalog.policies,
    compare,
    demo,
    doctor,
):
    app.command()(_command)
app.add_typer(inspect.artifacts, name="artifacts")
app.add_typer(data, name="data")
app.add_typer(predictor, name="predictor")
