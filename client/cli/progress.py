"""A job on the screen while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from client.cli.lines import event_line, frozen_words, progress_words, status_line
from client.flows import Json
from client.sse import Event

QUIET_EVENTS = frozenset({"log", "checkpoint.saved"})


class JobProgress:
    """Shows documents and events of one job. Lines of a pipe come at most every ``line_seconds``."""

    def __init__(self, console: Console, *, line_seconds: float = 10.0) -> None:
        self._console, self._line_seconds = console, line_seconds
        self._live = console.is_terminal
        self._status, self._said_at = "", 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(min_width=8, ratio=1)),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            console=console,
            disable=not self._live,
            expand=True,
        )
        self._task = self._bar.add_task("waiting", total=1.0, words="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, item: Event | Json) -> None:
        """Show an item of :func:`client.watch.watch`."""
        if isinstance(item, Event):
            self._event(item)
        else:
            self._job(item)

    def _event(self, event: Event) -> None:
        if event.type in QUIET_EVENTS:
            return
        if event.type == "unit.frozen":
            self._print(f"  frozen  {frozen_words(event.data)}", "cyan")
        elif not event.type.startswith("job.") or event.type == "job.recovered":
            self._print(f"  {event_line(event)}", "")

    def _job(self, job: Json) -> None:
        if (status := status_line(job)) != self._status:
            self._status = status
            self._print(f"{job['id']} {status}", "")
        ratio = float((job.get("progress") or {}).get("ratio") or 0.0)
        words = progress_words(job)
        self._bar.update(self._task, completed=ratio, description=job["status"], words=escape(words))
        due = time.monotonic() - self._said_at >= self._line_seconds
        if not self._live and job["status"] == "running" and words and due:
            self._said_at = time.monotonic()
            self._print(f"  {words}", "")

    def _print(self, text: str, style: str) -> None:
        self._bar.console.print(escape(text), style=style or None, highlight=False, soft_wrap=True)
