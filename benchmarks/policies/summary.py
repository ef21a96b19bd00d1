"""The short tables of ``docs/evidence.md`` and the README, written between their markers so that no figure is copied
by hand. Pure but for :func:`fill`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, harmonic_mean

from benchmarks.policies.judge import SUBJECT, freezes
from benchmarks.policies.setting import SETTINGS
from client.compare.statistics import stat
from client.compare.table import lines, marked, points, signed
from client.files import write_text
from client.flows import Json


def against_full_and_calendar(table: Sequence[Json], kinds: Mapping[str, str]) -> str:
    """``smartfrz`` in its three settings on every workload that was measured."""
    head = (
        "workload", "", "seeds", "setting", "accuracy to full, pt", "FLOPs, full / ours",
        "seconds of training, full / ours", "to the calendar at equal FLOPs, pt", "to early stopping, pt",
    )  # fmt: skip
    rows = {(row["workload"], row["arm"]): row for row in table}
    cells = [
        (
            workload,
            kind,
            str(row["n"]),
            marked(setting, row),
            points(row["accuracy_difference"], row["n"]),
            _number(row["flops_speedup"]),
            _quicker(row["train_seconds_ratio"], row["n"]),
            points(row["equal_compute_difference"], row["n"]),
            points(row["early_stop_difference"], row["n"]),
        )
        for workload, kind in kinds.items()
        for arm, setting in SETTINGS.items()
        if (row := rows.get((workload, arm))) and row["n"]
    ]
    return _table(head, cells)


def headline(fresh: Sequence[Json], table: Sequence[Json], kinds: Mapping[str, str]) -> str:
    """``smartfrz`` at its default setting, a line for each workload.

    Args:
        fresh: table of seeds that decided nothing.
        table: of those that the settings were chosen on.
    """
    calendar = "to full training cut to the same FLOPs, pt"
    head = (
        "workload", "fresh seeds: accuracy to full training, pt", "FLOPs, full / ours", calendar,
        "seeds that the settings were chosen on: accuracy to full training, pt", "FLOPs, full / ours", calendar,
    )  # fmt: skip
    ours = [{row["workload"]: row for row in rows if row["arm"] == SUBJECT and row["n"]} for rows in (fresh, table)]

    def three(row: Json | None) -> tuple[str, str, str]:
        if row is None:
            return "", "", ""
        lost = marked(f"{points(row['accuracy_difference'], row['n'])} (n = {row['n']})", row)
        return lost, _number(row["flops_speedup"]), points(row["equal_compute_difference"], row["n"])

    cells = [
        (f"{workload}, {kind}", *three(ours[0].get(workload)), *three(ours[1].get(workload)))
        for workload, kind in kinds.items()
        if any(workload in rows for rows in ours)
    ]
    return _table(head, cells)


def confirmed(table: Sequence[Json], kinds: Mapping[str, str]) -> str:
    """``smartfrz`` at its default setting against full training and all who stop or hurry instead of freezing.

    The last line is the mean over the workloads, each weighing the same, with its interval over them.
    """
    head = (
        "workload", "", "seeds", "accuracy of full, %", "accuracy to full, pt", "FLOPs, full / ours",
        "seconds of training, full / ours", "to the calendar at equal FLOPs, pt",
        "to the calendar with a higher rate, pt", "to early stopping, pt",
    )  # fmt: skip
    rows = {(row["workload"], row["arm"]): row for row in table if row["n"]}

    def rival(row: Json, name: str | None) -> str:
        """The difference, and what the rival spent over what we did."""
        if name is None or not (found := row["against"][name])["accuracy_difference"]:
            return ""
        spent = _inverse(found["flops_ratio"])
        of_ours = "" if spent is None else f" ({spent:.2f} of our FLOPs)"
        return points(found["accuracy_difference"], row["n"]) + of_ours

    cells = []
    for workload, kind in kinds.items():
        if (row := rows.get((workload, SUBJECT))) is None:
            continue
        hurried = next((arm for (name, arm) in rows if name == workload and arm.startswith("faster-")), None)
        full = rows.get((workload, "full"), {}).get("accuracy")
        cells.append(
            (
                workload,
                kind,
                str(row["n"]),
                f"{100 * full['mean']:.2f}" if full else "",
                marked(points(row["accuracy_difference"], row["n"]), row),
                _number(row["flops_speedup"]),
                _quicker(row["train_seconds_ratio"], None),
                points(row["equal_compute_difference"], row["n"]),
                rival(row, hurried),
                rival(row, "early-stop" if (workload, "early-stop") in rows else None),
            )
        )
    ours = [rows[workload, SUBJECT] for workload in kinds if (workload, SUBJECT) in rows]
    if len(ours) > 1:
        compared = ("accuracy_difference", "equal_compute_difference", "early_stop_difference")
        lost, calendar, early = (_over_workloads(ours, measure) for measure in compared)
        known = [row["flops_speedup"] for row in ours if row["flops_speedup"] is not None]  # none without full training
        saved = _number(harmonic_mean(known)) if known else ""
        cells.append(("mean", "", "", "", lost, saved, "", calendar, "", early))
    return _table(head, cells)


def against_rivals(table: Sequence[Json], kinds: Mapping[str, str]) -> str:
    """Our accuracy less that of each other policy, and its FLOPs over ours, workload by workload.

    Of freezing policies alone: the calendar, early stopping and hurried recipes have their columns elsewhere. The last
    line is the mean over the workloads, each weighing the same, with its interval over them.
    """
    rows = {(row["workload"], row["arm"]): row for row in table if row["n"]}
    froze = {key for key, row in rows.items() if freezes(row)}
    own = (SUBJECT, "frozen-")
    names = [arm for arm in dict.fromkeys(row["arm"] for row in table) if not arm.startswith(own)]
    names = [arm for arm in names if any((workload, arm) in froze for workload in kinds)]
    ours = {workload: row for workload in kinds if (row := rows.get((workload, SUBJECT)))}

    def cell(workload: str, name: str) -> str:
        if (workload, name) not in froze:
            return ""
        found = ours[workload]["against"][name]
        spent = _inverse(found["flops_ratio"])
        gained = points(found["accuracy_difference"], ours[workload]["n"])
        return gained if spent is None else f"{gained} ({spent:.2f})"

    def mean(name: str) -> str:
        met = [row["against"][name] for workload, row in ours.items() if (workload, name) in froze]
        spent = [1 / found["flops_ratio"]["mean"] for found in met if found["flops_ratio"]]
        gained = _over_workloads(met, "accuracy_difference")
        return f"{gained} ({fmean(spent):.2f})" if spent else gained

    cells = [(workload, *(cell(workload, name) for name in names)) for workload in ours]
    if len(ours) > 1:
        cells.append(("mean", *(mean(name) for name in names)))
    return _table(("workload", *(f"to {name}, pt (its FLOPs / ours)" for name in names)), cells)


def _over_workloads(rows: Sequence[Json], measure: str) -> str:
    """The mean of the rows' means, of those that have one, with its interval over them."""
    found = stat(dict(enumerate(row[measure]["mean"] for row in rows if row[measure])))
    return points(found.to_json(), len(rows)) if found else ""


def against_policies(table: Sequence[Json], kinds: Mapping[str, str]) -> str:
    """Accuracy and FLOPs of every arm that freezes or stops, to full training, and its seeds, workload by workload."""
    arms = list(dict.fromkeys(row["arm"] for row in table if row["kind"] in ("early-stop", "policy") and row["n"]))
    rows = {(row["workload"], row["arm"]): row for row in table if row["n"]}
    known = [workload for workload in kinds if any((workload, arm) in rows for arm in arms)]

    def cell(row: Json | None) -> str:
        if row is None or row["accuracy_difference"] is None or row["flops_ratio"] is None:
            return ""
        found = row["accuracy_difference"]
        return marked(f"{signed(found['mean'])} at {row['flops_ratio']['mean']:.2f} ({found['n']})", row)

    return _table(("", *known), [(arm, *(cell(rows.get((workload, arm))) for workload in known)) for arm in arms])


def chosen_by_hand(table: Sequence[Json], kinds: Mapping[str, str], usual: Collection[str]) -> str:
    """Every arm that is not among the ``usual`` ones, those that save most first, workload by workload."""
    head = ("workload", "arm", "seeds", "accuracy to full, pt", "FLOPs, full / ours", "to the calendar, pt")
    cells = [
        (
            workload,
            marked(row["arm"], row),
            str(row["n"]),
            points(row["accuracy_difference"], row["n"]),
            _number(row["flops_speedup"]),
            points(row["equal_compute_difference"], row["n"]),
        )
        for workload in kinds
        for row in sorted(table, key=lambda row: -(row["flops_speedup"] or 0.0))
        if row["workload"] == workload and row["kind"] == "policy" and row["arm"] not in usual and row["n"]
    ]
    return _table(head, cells)


def promises(listed: Sequence[Json]) -> str:
    """The bounds, met or not."""
    cells = [
        (
            entry["measure"],
            f"{entry['bound']:g}",
            "not measured" if entry["value"] is None else f"{entry['value']:g}",
            "yes" if entry["ok"] else "**no**",
        )
        for entry in listed
    ]
    return _table(("measure", "bound", "reached", "kept"), cells)


def choices(found: Sequence[Json]) -> str:
    """Settings chosen on one half of the workloads, and what they do on the other."""
    head = ("chosen on", "setting", "reported on", "accuracy to full, pt", "worst, pt", "FLOPs, full / ours", "seeds")
    cells = [
        (
            ", ".join(entry["chosen_on"]),
            entry["setting"],
            ", ".join(entry["reported_on"]),
            signed(entry["accuracy_difference"]),
            signed(entry["worst"]),
            f"{entry['flops_speedup']:.2f}",
            f"{entry['seeds']} or more",
        )
        for entry in found
    ]
    return _table(head, cells)


def fill(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in the page.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page} has no markers {begin.strip()} and {end}")
        text = f"{before}{begin}{part}\n{end}{after}"
    write_text(page, text)


def _inverse(ratio: Json | None) -> float | None:
    """Of a ratio's mean."""
    return 1.0 / ratio["mean"] if ratio and ratio["mean"] else None


def _quicker(seconds: Json | None, n: int | None) -> str:
    """How many times fewer, and of how many seeds where that is not ``n``: few were measured side by side."""
    times = _inverse(seconds)
    if seconds is None or times is None:
        return ""
    return _number(times) + ("" if seconds["n"] == n else f" (n = {seconds['n']})")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(lines(head, rows))
