"""What every command shares: the connection from the root's flags, exit codes, errors as text on stderr."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from client.api import Client
from client.config import home_from
from client.errors import ApiError, ClientError, Invalid, NotConfigured, WaitTimeout
from client.patience import is_away

FAILED, USAGE, CANCELLED, TIMEOUT, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130
BY_STATUS = {"succeeded": 0, "failed": FAILED, "cancelled": CANCELLED}


class Format(StrEnum):
    table = "table"
    json = "json"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print ids or names only.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, job_...")]


@dataclass(slots=True)
class State:
    """Flags of the root command."""

    url: str | None = None
    key: str | None = None
    home: Path | None = None

    def client(self) -> Client:
        """Raises NotConfigured."""
        return Client(self.url, self.key, home=self.home)

    def home_path(self) -> Path:
        import os

        return self.home or home_from(os.environ)


def state(ctx: typer.Context) -> State:
    found = ctx.find_object(State)
    assert found is not None, "the root callback makes it"
    return found


def exit_code(error: ClientError) -> int:
    """2 for what the user can correct in the call, 4 for a timeout, 5 for a service that is away, else 1."""
    if isinstance(error, Invalid | NotConfigured):
        return USAGE
    if is_away(error):
        return UNREACHABLE
    return TIMEOUT if isinstance(error, WaitTimeout) else FAILED


def explain(error: ClientError) -> str:
    """The error as lines: code, pointers and sentences, and the id to find it in the service's log."""
    text = f"error: {error}"
    if isinstance(error, ApiError) and error.status >= 500 and error.request_id:
        text += f"\n  request_id: {error.request_id}"
    return text


class Guarded(TyperGroup):
    """The root group: client errors become text and an exit code, wherever they are raised."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            typer.echo(explain(error), err=True)
            raise typer.Exit(exit_code(error)) from None


def fail(message: str, code: int = FAILED) -> typer.Exit:
    """Print to stderr and return the exit to raise."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(code)
