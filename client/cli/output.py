"""Printing: a table for people, JSON for programs, bare ids for pipes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from client.cli.context import Format


def console(*, stderr: bool = False) -> Console:
    """Of stdout, or of stderr, as they are now: tests and pipes swap them. A pipe gets wide lines."""
    stream = sys.stderr if stderr else sys.stdout
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(soft_wrap=True, width=140 if wide else None, stderr=stderr)


def emit_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def emit(
    document: Any,
    *,
    output: Format,
    quiet: bool = False,
    ids: Iterable[str] = (),
    columns: Sequence[str] = (),
    rows: Iterable[Sequence[object]] = (),
    title: str | None = None,
) -> None:
    """Print a document in the form asked for. Columns whose names are all empty have no head."""
    if quiet:
        for one in ids:
            typer.echo(one)
    elif output is Format.json:
        emit_json(document)
    else:
        style: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold", "title_justify": "left"}
        table = Table(title=title, show_header=any(columns), **style)
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column == "ID")  # an id in one piece can be copied
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        console().print(table)


def emit_pairs(document: Any, pairs: Iterable[tuple[str, object]], *, output: Format) -> None:
    """One thing as name and value lines; what is ``None`` is left out."""
    shown = [(name, value) for name, value in pairs if value is not None]
    emit(document, output=output, columns=("", ""), rows=shown)


def cell(value: object) -> str:
    """One cell: nothing for ``None``, four significant digits for a float. Markup of rich is escaped."""
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("[", "\\[")


def measure(name: str, value: object) -> object:
    """A figure as its name tells: ``*_seconds``, ``*_bytes*``, ``*_ratio``, ``flops_*``; else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if name.endswith("_seconds"):
        return f"{value:.2f} s" if value < 60 else duration(value)
    if "_ratio" in name:
        return f"{value:.1%}"
    if name.startswith("flops_"):
        return f"{value:.3g}"
    return byte_size(value) if "_bytes" in name else value


def duration(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age(at: str | None, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was: ``12s``, ``5m``, ``3h``, ``2d``."""
    if not at:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def byte_size(count: float) -> str:
    """``3.2 MiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    size, power = float(count), 0
    while abs(size) >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {units[power]}" if power else f"{size:.0f} B"
