"""``python -m benchmarks.policies [--quick | --arms limits|confirm] [--json FILE|-] [--report-only] [--workload W ...]
[--arm A ...] [--evidence DIR]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.policies.documents import HERE, OTHER_ARMS, read
from benchmarks.policies.judge import judge
from benchmarks.policies.kept import keep, restore
from benchmarks.policies.leftout import with_leftout
from benchmarks.policies.setting import SETTINGS, choose_and_report
from benchmarks.policies.summary import (
    against_full_and_calendar,
    against_policies,
    against_rivals,
    choices,
    chosen_by_hand,
    confirmed,
    fill,
    headline,
    promises,
)
from client.compare import ConsoleScreen, Folder, analyse, execute_privately, expand, parse, write
from client.compare.write import page
from client.files import FolderInUse, write_json
from client.flows import Json
from client.private_stack import StackError
from freezer.offline.evaluate import checks, evaluate
from freezer.offline.summary import load_summary
from freezer.predictor.model import WEIGHTS
from workers.packages import DataPackageMissing
from workers.settings import Settings

RESULTS = HERE.parent / "results"
README = HERE.parent.parent / "README.md"
RUNS = ".runs.jsonl"
"""Ending of the files with runs of this and of other machines, one a line: what is there is not run again."""

CUT = {"balanced-of-0.8": "balanced, recipe cut to 0.8"}
"""A setting more, where the limits are looked for."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="one workload from scratch, one fine-tuned, both tiny")
    which.add_argument("--arms", choices=OTHER_ARMS, help="those of this file instead, into results of its name")
    parser.add_argument("--workload", action="append", help="some; what else has been run is judged all the same")
    parser.add_argument("--arm", action="append", help="some")
    parser.add_argument("--seed", type=int, action="append", help="some")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time; more than one spoils seconds")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-policies"))
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument("--evidence", type=Path, help="tables and plots there, short tables into DIR.md and the README")
    parser.add_argument("--json", metavar="FILE", help="print the measures there too; - for stdout")
    options = parser.parse_args()
    document = read(quick=options.quick, arms=options.arms)
    kinds, halves, usual = document.kinds, document.halves, document.usual
    root = options.runs / ("quick" if options.quick else options.arms or "whole")
    result = RESULTS / f"{options.arms or 'policies'}.json"
    data = (root / "leftout").absolute()
    comparison = parse(with_leftout(document.comparison, data))
    os.environ["SMARTFRZ_DATA_DIR"] = str(data)  # of the private stack: where jobs may take weights from
    runs = expand(comparison)
    folder = Folder(root)
    console = Console(stderr=True)
    with folder.owned():
        for kept in () if options.quick else sorted(RESULTS.glob(f"*{RUNS}")):  # they have arms in common
            try:
                print(f"{restore(kept, folder, runs)} runs taken from {kept.name}", file=sys.stderr)
            except ValueError as error:
                raise SystemExit(f"{error}; check the file out again, or remove it") from error
        if not options.report_only:
            chosen = [run for run in runs if _wanted(run, options)]
            with ConsoleScreen(console) as screen:
                execute_privately(chosen, folder, Settings().packages, workers=options.workers, screen=screen)
        results = folder.results(runs)
        analysed = analyse(comparison, runs, results)
        write(analysed, root)
    table = analysed["table"]
    listed = [] if options.arms else judge(table if options.quick else _confirmed(), table, kinds)
    if not options.quick:
        if options.arms == "confirm":
            found = {"kinds": kinds}
            parts = {"confirm": confirmed(table, kinds), "rivals": against_rivals(table, kinds)}
        elif options.arms:
            results = {name: record for name, record in results.items() if not _usual(record, usual)}
            found, parts = _limits(table, kinds, halves, usual)
            analysed = _without_pairs(analysed)
        else:
            tables = evaluate(load_summary(WEIGHTS / "crossval.safetensors"))
            listed = [entry for entry in checks(tables) if entry["bound"] is not None] + listed
            found, parts = _whole(table, kinds, halves, listed)
        keep(results, result.with_suffix(RUNS), folder.token())
        _publish(result, analysed, found, parts, options.evidence)
        if options.evidence and options.arms != "limits":
            _picture(table, kinds, options.evidence / (options.arms or "") / "overview.png")
        if options.evidence and not options.arms:
            fill(README, {"headline": headline(_confirmed(), table, kinds)})
    for row in listed:
        print(f"{row['measure']:<84} {row['value']!s:>8} {row['bound']:>7} {row['ok']}", file=sys.stderr)
    text = json.dumps(listed, indent=1)
    if options.json == "-":
        print(text)
    elif options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


def _confirmed() -> list[Json]:
    """The table of ``--arms confirm`` as it was last written."""
    path = RESULTS / "confirm.json"
    table: list[Json] = json.loads(path.read_text(encoding="utf-8"))["table"] if path.exists() else []
    return table


def _whole(
    table: list[Json], kinds: dict[str, str], halves: dict[str, list[str]], listed: list[Json]
) -> tuple[Json, dict[str, str]]:
    """What the result says beside the table, and the evidence page's short tables."""
    settings = choose_and_report(table, halves)
    parts = {
        "calendar": against_full_and_calendar(table, kinds),
        "policies": against_policies(table, kinds),
        "promises": promises(listed),
        "settings": choices(settings),
    }
    return {"measures": listed, "kinds": kinds, "settings": settings}, parts


def _limits(
    table: list[Json], kinds: dict[str, str], halves: dict[str, list[str]], usual: frozenset[str]
) -> tuple[Json, dict[str, str]]:
    """The same of ``--arms limits``."""
    settings = choose_and_report(table, halves, SETTINGS | CUT)
    parts = {"limits": chosen_by_hand(table, kinds, usual), "limits-settings": choices(settings)}
    return {"kinds": kinds, "settings": settings}, parts


def _without_pairs(analysed: Json) -> Json:
    """Without timelines, and every arm against every other: limits are held against full training alone."""
    return {**analysed, "table": [{**row, "against": {}} for row in analysed["table"]], "timelines": []}


def _publish(result: Path, analysed: Json, found: Json, parts: dict[str, str], evidence: Path | None) -> None:
    """The committed result, and its tables between the markers of the evidence page."""
    kept = {key: value for key, value in analysed.items() if key not in ("timelines", "runs")}  # runs have their file
    arms = "" if result.stem == "policies" else f" --arms {result.stem}"
    write_json(result, {"command": f"python -m benchmarks.policies{arms}", **found, **kept})
    if evidence:
        page(_measured(analysed), (evidence / result.stem if arms else evidence) / "tables.md")
        fill(evidence.with_suffix(".md"), parts)


def _picture(table: list[Json], kinds: dict[str, str], path: Path) -> None:
    from benchmarks.policies.overview import overview  # with matplotlib, which nothing else needs

    figure = overview(table, kinds)
    if figure is not None:
        figure.savefig(path, dpi=150)


def _measured(document: Json) -> Json:
    """Without the arms and workloads of which nothing has been run: a page needs no empty rows."""
    table = [row for row in document["table"] if row["n"]]
    known = {row["workload"] for row in table}
    return {**document, "table": table, "seeds": {name: s for name, s in document["seeds"].items() if name in known}}


def _usual(record: Json, arms: frozenset[str]) -> bool:
    """Whether the run is one of workloads.json, and kept with those."""
    return record["arm"] in arms or record["kind"] == "shorter"


def _wanted(run: Any, options: argparse.Namespace) -> bool:
    return (
        (options.workload is None or run.workload in options.workload)
        and (options.arm is None or run.arm in options.arm)
        and (options.seed is None or run.seed in options.seed)
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (FolderInUse, StackError, DataPackageMissing) as error:  # each says what to do
        raise SystemExit(str(error)) from None
