"""``comparison.md``: a table for each workload. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client.cli.output import duration
from client.flows import Json

_HEAD = (
    "arm",
    "n",
    "accuracy, %",
    "to full, pt",
    "FLOPs / full",
    "wall / full",
    "all-reduce / full",
    "units frozen",
    "to full training of equal compute, pt",
    "to early stopping, pt",
)
DAGGER = "†"
_SCORED = {
    "test": "Accuracy on the test split.",
    "train": "Accuracy on training data that was held out; the test split was not used.",
}
_NOTES = """\
Brackets hold 95 % intervals ({intervals})

- FLOPs are estimated: counted on one batch, multiplied by the steps, what the forward cache saved taken off.
  Evaluations on a validation split are not in them.
- Accuracy, wall time and all-reduce bytes are measured. Wall time is of the whole job, from the start of its processes
  to the report; runs that were resumed have none.
- Full training of equal compute: the same recipe with its schedule shortened, the length chosen with hindsight: that
  of the arm's FLOPs, or a shorter one that was run and is better on average. Its accuracy is interpolated seed by seed
  between the lengths that were run, straight in the logarithm of FLOPs, and nothing is said outside of them.
"""


def markdown(document: Json, plots: Mapping[str, Sequence[str]]) -> str:
    """The page.

    Args:
        document: of :func:`client.compare.analyse`.
        plots: file names by workload.
    """
    parts = [f"# {document['name']}", ""]
    for workload, seeds in document["seeds"].items():
        rows = [row for row in document["table"] if row["workload"] == workload]
        scored = _SCORED[document["test_from"][workload]]
        parts += [f"## {workload}", "", f"Seeds {', '.join(map(str, seeds))}. {scored}", "", *_table(rows), ""]
        parts += [f"{DAGGER} {note}" for note in dict.fromkeys(note for row in rows for note in row["notes"])]
        parts += ["", *(line for name in plots.get(workload, ()) for line in (f"![{workload}]({name})", ""))]
    if bounded := [check for check in document["checks"] if check["bound"] is not None]:
        parts += ["## Bounds", "", *lines(("measure", "value", "bound", "met"), map(_check_cells, bounded)), ""]
    if document["failed"]:
        parts += ["## Failed runs", "", *(f"- {name}: {error}" for name, error in document["failed"].items()), ""]
    if document["unfinished"]:
        parts += [f"Not run yet: {', '.join(document['unfinished'])}.", ""]
    parts += ["## How to read it", "", _NOTES.format(intervals=document["intervals"].rstrip("."))]
    parts += [f"Machine: {_words(machine)}." for machine in document["machines"]]
    parts += [f"Versions: {_words(versions)}." for versions in document["versions"]]
    return "\n".join(parts).rstrip() + "\n"


def _table(rows: Sequence[Json]) -> list[str]:
    return lines(_HEAD, (_cells(row) for row in rows))


def _cells(row: Json) -> tuple[str, ...]:
    full = row["kind"] == "full"
    wall = f" ({duration(row['wall_seconds']['mean'])})" if row["wall_seconds"] else ""
    frozen = f"{row['frozen_units']['mean']:.3g} of {row['units']}" if row["frozen_units"] else ""
    return (
        marked(row["arm"], row),
        str(row["n"]),
        f"{row['accuracy']['mean'] * 100:.2f}" if row["accuracy"] else "",
        "" if full else points(row["accuracy_difference"], row["n"]),
        _ratio(row["flops_ratio"]),
        _ratio(row["wall_ratio"]) + wall,
        _ratio(row["allreduce_bytes_ratio"]),
        frozen,
        points(row["equal_compute_difference"], row["n"]),
        points(row["early_stop_difference"], row["n"]),
    )


def marked(text: str, row: Json) -> str:
    """With a dagger where there is a note about some of the row's runs."""
    return f"{text} {DAGGER}" if row["notes"] else text


def points(found: Any, n: int) -> str:
    """A difference of accuracies in points, with its interval, and its ``n`` where that is not the row's."""
    if not found:
        return ""
    interval = "" if found["low"] is None else f" [{signed(found['low'])}, {signed(found['high'])}]"
    return signed(found["mean"]) + interval + ("" if found["n"] == n else f" (n = {found['n']})")


def signed(share: float) -> str:
    """A share in points, with its sign where it has one."""
    text = f"{share * 100:+.2f}"
    return "0.00" if float(text) == 0.0 else text


def _ratio(found: Any) -> str:
    return f"{found['mean']:.3f}" if found else ""


def _check_cells(check: Json) -> tuple[str, ...]:
    value = "not measured" if check["value"] is None else f"{check['value']:g}"
    return check["measure"], value, f"{check['bound']:g}", "yes" if check["ok"] else "no"


def lines(head: Sequence[str], rows: Any) -> list[str]:
    """A Markdown table, line by line."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _words(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
