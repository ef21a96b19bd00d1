"""One picture of all workloads: what ``smartfrz`` loses to full training, what it saves, how it does at equal FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.policies.judge import ACCURACY, SPEEDUP
from benchmarks.policies.setting import SETTINGS
from client.compare.plots import COLOURS, MARKERS
from client.flows import Json

_BOUND = "#555555"
_APART = 0.22
"""Between two settings of a workload, in lines."""
_PANELS = (
    ("accuracy_difference", "accuracy to full training, points"),
    ("flops_speedup", "FLOPs of full training / ours"),
    ("equal_compute_difference", "accuracy to full training cut to\nthe same FLOPs, points"),
)


def overview(table: Sequence[Json], kinds: Mapping[str, str]) -> Figure | None:
    """A line for each workload, a mark for each setting; ``None`` where none of them was run.

    Args:
        table: of :func:`client.compare.analyse`.
        kinds: ``fine-tuning`` or ``scratch``, by workload, from the top down.
    """
    rows = {(row["workload"], row["arm"]): row for row in table if row["n"] and row["arm"] in SETTINGS}
    names = [name for name in kinds if any((name, arm) in rows for arm in SETTINGS)]
    if not names:
        return None
    figure = Figure(figsize=(11.0, 1.5 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for axis, (measure, label) in zip(axes, _PANELS, strict=True):
        for line, name in enumerate(names):
            for position, (arm, setting) in enumerate(SETTINGS.items()):
                if (row := rows.get((name, arm))) and row[measure] is not None:
                    _mark(axis, row[measure], line + _APART * (position - 1), position, setting)
        axis.set_xlabel(label, fontsize=9)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _bounds(axes, [kinds[name] for name in names])
    axes[0].set_yticks(range(len(names)), [f"{name}\n({kinds[name]})" for name in names], fontsize=8)
    axes[0].invert_yaxis()
    handles, labels = axes[1].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=len(known), fontsize=8, frameon=False)
    return figure


def _mark(axis: Axes, found: Any, height: float, position: int, label: str) -> None:
    """A mean with its interval in points, or a plain ratio; of a single seed hollow, for it has no interval."""
    colour, marker = COLOURS[position], MARKERS[position]
    if not isinstance(found, dict):
        axis.plot(found, height, marker, color=colour, markersize=5, label=label)
        return
    mean = 100 * found["mean"]
    if found["low"] is not None:
        axis.plot([100 * found["low"], 100 * found["high"]], [height, height], color=colour, linewidth=1.4)
    fill = colour if found["n"] > 1 else "white"
    axis.plot(mean, height, marker, color=colour, markerfacecolor=fill, markersize=5)


def _bounds(axes: Sequence[Axes], kinds: Sequence[str]) -> None:
    """What the project set itself, dotted."""
    style: Json = {"color": _BOUND, "linestyle": ":", "linewidth": 1.0}
    axes[0].axvline(100 * ACCURACY, **style)
    axes[2].axvline(0.0, **style)
    for line, kind in enumerate(kinds):
        axes[1].plot([SPEEDUP[kind]] * 2, [line - 0.4, line + 0.4], **style)
