"""``python -m benchmarks.engine``: runs the ranks, prints the table, writes benchmarks/results/engine.json.

The raw samples of each part lie under ``runs/bench-engine`` as soon as it is done; ``--resume`` keeps those of a run
that was broken off. Part of the parts (``--only``) or ``--quick`` prints the table and leaves the results alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.rank import PARTS, device_of
from benchmarks.engine.report import Row, rows_of, table
from benchmarks.engine.workloads import NAMES
from workers.training.machine import machine

RESULTS = Path(__file__).parents[1] / "results"
NOTES = RESULTS / "engine_notes.json"
"""Written by hand: ``{measure: by how much a bound is missed, and why}``."""
GROUP_SECONDS = 420
"""Longest that the parts of one model may take."""
ALL = (*PARTS, "snapshot")


def run_group(folder: Path, model: str, parts: list[str], world: int, repeats: int, quick: bool) -> None:
    """The parts of one model, on all ranks. Raises RuntimeError when a rank failed or took too long."""
    folder.joinpath(f"store-{model}").unlink(missing_ok=True)
    options = [str(folder), model, str(repeats), "quick" if quick else "whole", *parts]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine.rank", str(rank), str(world), *options], env=environment
        )
        for rank in range(world)
    ]
    deadline = time.monotonic() + GROUP_SECONDS
    try:
        while any(process.poll() is None for process in ranks):
            failed = [str(rank) for rank, process in enumerate(ranks) if process.poll() not in (None, 0)]
            if failed or time.monotonic() > deadline:
                why = f"rank {failed[0]} failed" if failed else f"took more than {GROUP_SECONDS} s"
                raise RuntimeError(f"{model}: {why}; see above, and go on with --resume")
            time.sleep(0.2)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
            process.wait()
    if any(process.returncode for process in ranks):
        raise RuntimeError(f"{model}: a rank failed; see above, and go on with --resume")


def measure(folder: Path, parts: list[str], models: list[str], world: int, options: argparse.Namespace) -> None:
    """Run what has no file yet."""
    groups = [(m, [p for p in parts if p != "snapshot"], world) for m in models]
    groups.append(("all", [p for p in parts if p == "snapshot"], 1))
    for model, wanted, ranks in groups:
        left = [part for part in wanted if not (folder / f"{part}-{model}.json").exists()]
        if left:
            run_group(folder, model, left, ranks, options.repeats, options.quick)


def read(folder: Path, parts: list[str]) -> dict[str, dict[str, Any]]:
    """Raw samples: ``[part][model]``."""
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for part in parts:
        for model in (*NAMES, "all"):
            path = folder / f"{part}-{model}.json"
            if path.exists():
                found[part][model] = json.loads(path.read_text(encoding="utf-8"))
    return found


def document(rows: list[Row], raw: dict[str, Any], notes: dict[str, str], **about: Any) -> dict[str, Any]:
    """What is written: the list that every benchmark here has, what stands beside each figure, and the samples.

    ``notes`` say of a measure why it missed its bound; they count only where it did.
    """
    listed = [row.short() for row in rows]
    why = {row.measure: {"notes": notes[row.measure]} for row in rows if row.ok is False and row.measure in notes}
    beside = [
        {"measure": row.measure, **row.more, **why.get(row.measure, {})}
        for row in rows
        if row.more or row.measure in why
    ]
    return {**about, "measures": listed, "beside": beside, "raw": raw}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="print the measures there too; - for stdout")
    parser.add_argument("--quick", action="store_true", help="few and short blocks: shows that it works, no more")
    parser.add_argument("--repeats", type=int, help="blocks of each arm (10; 3 with --quick)")
    parser.add_argument("--only", action="append", choices=ALL, metavar="MEASURE", help=f"of: {', '.join(ALL)}")
    parser.add_argument("--model", action="append", choices=NAMES, help="only with this model")
    parser.add_argument("--resume", action="store_true", help="keep the parts that a broken run has finished")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-engine"))
    options = parser.parse_args()
    options.repeats = options.repeats or (3 if options.quick else 10)
    folder: Path = options.runs / ("quick" if options.quick else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    parts, models = options.only or list(ALL), options.model or list(NAMES)
    if not options.resume:
        for path in folder.glob("*.json"):
            path.unlink()
    world = min(2, torch.cuda.device_count()) if torch.cuda.is_available() else 2
    measure(folder, parts, models, world, options)
    raw = read(folder, parts)
    rows = rows_of(raw)
    torch.set_num_threads(1)
    notes = json.loads(NOTES.read_text(encoding="utf-8")) if NOTES.exists() else {}
    about = {
        "command": f"python -m benchmarks.engine --repeats {options.repeats}",
        "machine": {**machine(device_of(0)), "ranks": world},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "repeats": options.repeats,
        "seconds": round(sum(found["part_seconds"] for part in raw.values() for found in part.values()), 1),
    }
    if not (options.quick or options.only or options.model):
        text = json.dumps(document(rows, raw, notes, **about), indent=1)
        RESULTS.joinpath("engine.json").write_text(text + "\n", encoding="utf-8")
    listed = json.dumps([row.short() for row in rows], indent=1)
    print(table(rows), file=sys.stderr if options.json == "-" else sys.stdout)
    if options.json == "-":
        print(listed)
    elif options.json:
        Path(options.json).write_text(listed + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
