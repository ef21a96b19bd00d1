"""Figures of a comparison, drawn with matplotlib (extra ``report``), which this module alone imports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from client.compare.table import DAGGER, marked
from client.compare.timeline import frozen_share
from client.flows import Json

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by colour-blind readers too (Okabe and Ito 2008); markers differ besides."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
CALENDAR = "#555555"
MOST_LABELS = 16
LONGEST_LABEL = 36
SMALL = 8
SCORED = {"test": "test accuracy, %", "train": "accuracy on held-out training data, %"}
POINTS = ("early-stop", "policy")
"""Kinds of arms that are drawn as points; full training and its shortened forms are the curve."""
ENDS = ("low", "high")
FAR = 3.0
"""Points below full training from which on an arm would take the height from all others: it is told at the edge."""

Height = tuple[float, float, float]
"""Mean, lower and upper end, in percent."""
Heights = Mapping[str, Height]
"""By arm."""


def accuracy_figure(document: Json, workload: str) -> Figure | None:
    """Accuracy against compute and against wall time, both over full training's; ``None`` without runs."""
    rows = [row for row in document["table"] if row["workload"] == workload and row["accuracy"]]
    if not rows:
        return None
    most = max(row["n"] for row in rows)  # seeds that were run, which may be fewer than the file has
    panels = [("flops_ratio", "training FLOPs / full training's (estimated)")]
    timed = [row for row in rows if row["kind"] != "full" and row["wall_ratio"]]  # those of one place, that is
    if 0 < len(_points(rows)) <= 2 * len(_points(timed)):  # most of them missing would say more than what is there
        some = ", of some seeds alone" if any(row["wall_ratio"]["n"] < row["n"] for row in timed) else ""
        panels.append(("wall_ratio", f"wall time / full training's (measured{some})"))
    heights = _heights(rows)
    bottom, top = _window(rows, heights)
    figure = Figure(figsize=(2.2 + 3.9 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (measure, label) in zip(axes, panels, strict=True):
        _calendar(axis, rows, heights, measure)
        for position, row in enumerate(_points(rows)):
            _point(axis, row, heights[row["arm"]], measure, position, of=most, bottom=bottom)
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(0.08, 0.1)
    axes[0].set_ylabel(SCORED[document["test_from"][workload]])
    axes[0].set_ylim(bottom=bottom, top=top)
    bars = any((row["accuracy_difference"] or {}).get("low") is not None for row in rows)
    how = ["bars: 95 % interval (t) of the difference to full, paired by seed"] if bars else []
    how += [f"{DAGGER}: see the notes under the table"] if any(row["notes"] for row in rows) else []
    between = "; " if len(panels) > 1 else "\n"  # one panel is narrower than the line
    figure.suptitle(between.join([f"{workload}: means over {_count(most, 'seed')}", *how]), fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=SMALL, frameon=False)
    return figure


def _points(rows: Sequence[Json]) -> list[Json]:
    return [row for row in rows if row["kind"] in POINTS]


def _window(rows: Sequence[Json], heights: Heights) -> tuple[float | None, float | None]:
    """Where the figure ends below and above, in percent: much shortened training, the long bar of two seeds, or an arm
    that is far behind would else squeeze what is compared into a line. ``None``: it shows all.
    """
    compared = [heights[row["arm"]][0] for row in rows if row["kind"] != "shorter"]
    full = max((heights[row["arm"]][0] for row in rows if row["kind"] == "full"), default=None)
    near = [height for height in compared if full is None or height >= full - FAR]
    if len(near) > 1:  # full training and one more
        compared = near
    if len(compared) < 2:
        return None, None
    least, most = min(compared), max(compared)
    margin = max(1.0, 0.6 * (most - least))
    everything = [height for three in heights.values() for height in three]
    return (
        least - margin if min(everything) < least - margin else None,
        most + margin if max(everything) > most + margin else None,
    )


def _calendar(axis: Axes, rows: Sequence[Json], heights: Heights, measure: str) -> None:
    """Full training and its shortened forms: the curve to beat. In order of length, whatever the clock said."""
    points = sorted(
        (row["flops_ratio"]["mean"], row[measure]["mean"], *heights[row["arm"]], row["kind"])
        for row in rows
        if row["kind"] in ("full", "shorter") and row["flops_ratio"] and row[measure]
    )
    if not points:
        return
    _, x, y, low, high, kinds = zip(*points, strict=True)
    if len(points) > 1:
        error = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        label = "full, schedule shortened"
        axis.errorbar(
            x, y, yerr=error, color=CALENDAR, marker=".", linewidth=1.2, elinewidth=0.9, capsize=2, label=label
        )
    if "full" in kinds:
        at = kinds.index("full")
        axis.axhline(y[at], color=CALENDAR, linewidth=0.8, linestyle=":")
        axis.plot(x[at], y[at], color="black", marker="*", markersize=12, linestyle="none", label="full", zorder=4)


def _point(
    axis: Axes, row: Json, height: Height, measure: str, position: int, *, of: int, bottom: float | None
) -> None:
    """With its bar; one below the figure is told at its lower edge, with its height."""
    if not row[measure]:
        return
    x, (y, low, high) = row[measure]["mean"], height
    below = bottom is not None and y < bottom
    style: dict[str, Any] = {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 6.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linestyle": "none",
        "label": marked(_named(row["arm"], row["n"], of), row),
    }
    if not below:
        axis.errorbar(x, y, yerr=[[y - low], [high - y]], elinewidth=1.1, capsize=2.5, zorder=3, **style)
        return
    edge = axis.get_xaxis_transform()  # data across, the figure's height as 1
    axis.plot(x, 0.0, transform=edge, clip_on=False, zorder=4, **style)
    axis.annotate(
        f"↓ {y:.1f}",
        (x, 0.0),
        xycoords=edge,
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        color=style["color"],
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=5,
    )


def _heights(rows: Sequence[Json]) -> Heights:
    """Accuracy in percent by arm, with its interval.

    An arm stands as far from full training as it was seed by seed: the mean of fewer seeds may lie elsewhere for the
    seeds' sake alone. Without full training beside it, it stands at its own mean; without an interval the bar has no
    length.
    """
    full = next((row["accuracy"]["mean"] for row in rows if row["kind"] == "full"), None)
    found = {}
    for row in rows:
        to_full = row["accuracy_difference"] if full is not None else None
        mean = full + to_full["mean"] if to_full else row["accuracy"]["mean"]
        bounds = [to_full[end] - to_full["mean"] if to_full and to_full[end] is not None else 0.0 for end in ENDS]
        found[row["arm"]] = (mean * 100, *((mean + bound) * 100 for bound in bounds))
    return found


def timeline_figure(document: Json, workload: str) -> Figure | None:
    """Units in execution order against steps, one panel for each arm that froze anything; ``None`` where none did."""
    found = [timeline for timeline in document["timelines"] if timeline["workload"] == workload]
    if not found:
        return None
    columns, of = min(3, len(found)), len(document["seeds"][workload])
    lines = math.ceil(len(found) / columns)
    height = 1.4 + 0.13 * max(12, min(MOST_LABELS, max(len(one["units"]) for one in found))) + 0.6
    figure = Figure(figsize=(2.0 + 3.3 * columns, 0.6 + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    mesh: Any = None
    for position, axis in enumerate(grid.flat):
        if position >= len(found):
            axis.set_axis_off()
            continue
        mesh = _panel(axis, found[position], of=of, labels=_needs_labels(found, position, columns))
        if position + columns >= len(found):
            axis.set_xlabel("optimizer steps")
    bar = figure.colorbar(mesh, ax=grid, shrink=0.7, aspect=35, pad=0.01)
    bar.set_label("share of the seeds that have it frozen", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    between = "; " if columns > 1 else "\n"  # one panel is narrower than the line
    how = "units in execution order, the input at the bottom"
    figure.suptitle(f"{workload}: what is frozen when{between}{how}", fontsize=9)
    return figure


def _needs_labels(found: Sequence[Json], position: int, columns: int) -> bool:
    """Names stand at the left of a line, and wherever the units are others than those of the panel beside."""
    return position % columns == 0 or found[position]["units"] != found[position - 1]["units"]


def _panel(axis: Axes, timeline: Json, *, of: int, labels: bool) -> Any:
    edges, shares = frozen_share(timeline)
    count = len(shares)
    mesh = axis.pcolormesh(edges, range(count + 1), shares, cmap="Blues", vmin=0.0, vmax=1.0, rasterized=True)
    every = math.ceil(count / MOST_LABELS)
    places = range(0, count, every)
    axis.set_yticks([place + 0.5 for place in places])
    names = short_names(timeline["units"])
    axis.set_yticklabels([names[place] if labels else "" for place in places], fontsize=6)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.set_title(_named(timeline["arm"], len(timeline["changes"]), of), fontsize=9)
    return mesh


def short_names(names: Sequence[str]) -> list[str]:
    """Long ones lose parts in front, whole ones as far as that is enough."""
    return [_short(name) for name in names]


def _short(name: str) -> str:
    if len(name) <= LONGEST_LABEL:
        return name
    kept = name[1 - LONGEST_LABEL :]
    return "…" + (kept[kept.index(".") + 1 :] if "." in kept else kept)


def _named(arm: str, n: int, of: int) -> str:
    """An arm that lacks seeds says so."""
    return arm if n == of else f"{arm} (n = {n})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
