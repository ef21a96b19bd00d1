"""What a comparison leaves: ``comparison.json``, ``comparison.md`` and plots."""

from __future__ import annotations

import importlib
from pathlib import Path

from client.compare.errors import PlotsMissing
from client.compare.table import markdown
from client.files import write_json, write_text
from client.flows import Json


def write(document: Json, folder: Path) -> list[Path]:
    """Write everything into ``folder``; returns the files.

    Raises:
        PlotsMissing: matplotlib is not installed; table and JSON are written all the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", document)
    return [folder / "comparison.json", *page(document, folder / "comparison.md")]


def page(document: Json, path: Path) -> list[Path]:
    """Write the table to ``path`` and the plots beside it; returns the files. Raises PlotsMissing, as :func:`write`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plots: dict[str, list[str]] = {}
    missing: PlotsMissing | None = None
    try:
        plots = draw(document, path.parent)
    except PlotsMissing as error:
        missing = error
    write_text(path, markdown(document, plots))
    if missing is not None:
        raise missing
    return [path, *(path.parent / name for found in plots.values() for name in found)]


def draw(document: Json, folder: Path) -> dict[str, list[str]]:
    """Draw the plots; their names by workload. Raises PlotsMissing."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise PlotsMissing from None
    from client.compare.plots import accuracy_figure, timeline_figure

    made: dict[str, list[str]] = {}
    for workload in document["seeds"]:
        figures = {
            f"{workload}-accuracy.png": accuracy_figure(document, workload),
            f"{workload}-timeline.png": timeline_figure(document, workload),
        }
        for name, figure in figures.items():
            (folder / name).unlink(missing_ok=True)  # none of an earlier state
            if figure is not None:
                figure.savefig(folder / name, dpi=150)
                made.setdefault(workload, []).append(name)
    return made
