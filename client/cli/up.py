"""``smartfrz up``: the whole stack on this machine under one supervisor, until Ctrl-C or TERM."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from client.cli.context import FAILED, fail, state


def up(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 1,
) -> None:
    """Start store, window store, API and workers; stop them all on Ctrl-C."""
    from workers.settings import Settings
    from workers.supervisor import Supervisor, SupervisorError

    flags = state(ctx)
    settings = Settings(home=flags.home) if flags.home else Settings()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    supervisor = Supervisor(settings, host, port, workers)
    try:
        supervisor.start()
        count = "1 worker" if workers == 1 else f"{workers} workers"
        typer.echo(f"smartfrz is up at {supervisor.url} with {count}; state in {settings.home}")
        typer.echo(f"key: {key_place(settings.home)}. Ctrl-C stops everything.")
        stop.wait()  # whatever dies meanwhile is started again, and what trains goes on
        typer.echo("stopping")
    except SupervisorError as error:
        raise fail(str(error), FAILED) from None
    finally:
        supervisor.stop()


def key_place(home: Path) -> str:
    """Where the API has its admin key from."""
    if "SMARTFRZ_ADMIN_KEY" in os.environ:
        return "the one in SMARTFRZ_ADMIN_KEY"
    if path := os.environ.get("SMARTFRZ_ADMIN_KEY_FILE"):
        return path
    return f"{home / 'admin.key'} (the command line finds it by itself)"
