"""A comparison on the screen: a line for each run that ends, and on a terminal what runs now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from client.cli.lines import progress_words
from client.cli.output import duration
from client.compare.expand import Run
from client.flows import Json


class Screen(Protocol):
    """Who is told what happens."""

    def note(self, text: str) -> None:
        """A line."""

    def running(self, jobs: Sequence[tuple[Run, Json]]) -> None:
        """The jobs under way, about once a second."""

    def ended(self, run: Run, record: Json, position: int, of: int, eta_seconds: float | None) -> None:
        """A run has its record."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None: ...

    def running(self, jobs: Sequence[tuple[Run, Json]]) -> None: ...

    def ended(self, run: Run, record: Json, position: int, of: int, eta_seconds: float | None) -> None: ...


class ConsoleScreen:
    """Lines on a console, and a status line below them on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console, self._status = console, Status("", console=console)

    def __enter__(self) -> ConsoleScreen:
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def note(self, text: str) -> None:
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def running(self, jobs: Sequence[tuple[Run, Json]]) -> None:
        if self._console.is_terminal and jobs:
            self._status.update("; ".join(escape(f"{run.title} {progress_words(job)}") for run, job in jobs))
            self._status.start()

    def ended(self, run: Run, record: Json, position: int, of: int, eta_seconds: float | None) -> None:
        self._status.stop()
        left = f"; eta {duration(eta_seconds)}" if eta_seconds else ""
        self.note(f"[{position}/{of}] {run.title} {outcome_words(record)}{left}")


def outcome_words(record: Json) -> str:
    """``succeeded: accuracy 0.9123, 1.2e+12 FLOPs, 0:42``, or why it failed."""
    if record["status"] != "succeeded":
        return f"{record['status']}: {record.get('error') or 'no reason given'}"
    report = record["report"]
    flops = (report.get("flops") or {}).get("this_run")
    words = [f"accuracy {report['accuracy']:.4f}"] if isinstance(report.get("accuracy"), float) else []
    words += [f"{flops:.3g} FLOPs"] if isinstance(flops, int | float) else []
    return f"succeeded: {', '.join([*words, duration(record.get('seconds'))])}"


def eta_seconds(left: Iterable[Run], took: Mapping[tuple[str, str], Sequence[float]], workers: int) -> float | None:
    """Seconds until all of ``left`` are done, from what runs of (workload, arm) took: of the same arm, else of the
    same workload, else of any. ``None`` when nothing is known."""
    everything = [seconds for values in took.values() for seconds in values]
    if not everything:
        return None
    total = 0.0
    for run in left:
        same = [seconds for (workload, _), values in took.items() if workload == run.workload for seconds in values]
        known = took.get((run.workload, run.arm)) or same or everything
        total += sum(known) / len(known)
    return total / workers
