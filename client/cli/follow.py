"""Following: events, logs, and a job to its end. Ctrl-C stops the looking, never the job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from client.api import Client
from client.cli.context import BY_STATUS, INTERRUPTED, Format, JobId, Output, state
from client.cli.lines import event_line
from client.cli.output import console
from client.cli.progress import JobProgress
from client.errors import ClientError
from client.flows import Json
from client.patience import is_away
from client.sse import Event
from client.watch import watch
from workers.jobs.record import TERMINAL

Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")]


@contextmanager
def come_back(command: str, job_id: str) -> Iterator[None]:
    """On Ctrl-C, and when the service is away for too long, say that the job goes on and how to look again."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped looking; {job_id} goes on. Come back with: smartfrz {command}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except ClientError as error:
        if is_away(error):
            typer.echo(f"stopped looking; {job_id} is not touched. Come back with: smartfrz {command}", err=True)
        raise


def follow_to_end(client: Client, job_id: str, *, aside: bool = False) -> Json:
    """Show a job live until it is terminal; its last document. ``aside``: on stderr, since stdout is for a program."""
    job: Json = {}
    with come_back(f"events -f {job_id}", job_id), JobProgress(console(stderr=aside)) as screen:
        for item in watch(client, job_id):
            screen.show(item)
            if not isinstance(item, Event):
                job = item
    return job


def end_code(job: Json) -> int:
    return BY_STATUS.get(str(job["status"]), 1)


def events(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    after: Annotated[str | None, typer.Option(help="Only events after this id.")] = None,
    output: Output = Format.table,
) -> None:
    """Events of a job. With -f: live, until the job ends."""
    with state(ctx).client() as client, come_back(f"events -f {job_id}", job_id):
        for event in client.events(job_id, after=after) if follow else _pages(client, job_id, after):
            typer.echo(json.dumps(event.to_json()) if output is Format.json else event_line(event))


def _pages(client: Client, job_id: str, after: str | None) -> Iterator[Event]:
    more = True
    while more:
        page = client.event_page(job_id, after=after)
        yield from map(Event.from_json, page["data"])
        more, after = bool(page.get("has_more")) and bool(page["data"]), page.get("last_id")


def logs(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    rank: Annotated[int, typer.Option(min=0, help="Which rank's log.")] = 0,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last so many lines.")] = None,
) -> None:
    """Log of one rank. With -f: live, until the job ends, across attempts."""
    with state(ctx).client() as client, come_back(f"logs -f {job_id}", job_id):
        follow_logs(client, job_id, rank=rank, tail=tail, follow=follow, write=lambda text: typer.echo(text, nl=False))


def follow_logs(
    client: Client,
    job_id: str,
    *,
    rank: int,
    tail: int | None,
    follow: bool,
    write: Callable[[str], None],
    pause: float = 1.0,
) -> None:
    """Read on from byte to byte; from one attempt to the next when the job was recovered.

    Who follows bears with a service that is away for the client's ``patience_seconds``.
    """
    attempt, after = None, None if tail else 0
    patience = client.patience()
    while True:
        try:
            ended = not follow or client.get(job_id)["status"] in TERMINAL  # asked before reading: nothing is missed
            left = None if after is not None else tail
            piece = client.logs(job_id, rank=rank, attempt=attempt, tail=left, after=after)
        except ClientError as error:
            if not follow or not patience.bears(error):
                raise
            time.sleep(pause)
            continue
        patience.heard()
        write(piece["content"])
        attempt, after = piece["attempt"], piece["next_after"]
        if piece["content"] and after < piece["size_bytes"]:
            continue
        newer = [number for number in piece["attempts"] if attempt is not None and number > attempt]
        if newer and follow:
            attempt, after = newer[0], 0
        elif ended:
            return
        else:
            time.sleep(pause)
