"""The demo's job with and without freezing: ``python -m benchmarks.demo``.

Each arm runs through the whole service, as ``smartfrz demo`` does, arms interleaved seed by seed. ``shorter`` is full
training with its schedule cut to the compute that ``smartfrz`` used with the same seed: the rival that knows the right
length with hindsight. With ``--resume`` an arm that left a report under ``runs/bench-demo`` is not run again.

Writes ``benchmarks/results/demo.json``, and the ``demo_full_training.json`` that the demo shows beside its own figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ARMS = ("full", "smartfrz", "shorter")
COMMAND = "python -m benchmarks.demo"
KEPT = (
    "accuracy",
    "loss",
    "test_samples",
    "steps",
    "wall_seconds",
    "train_seconds",
    "evaluate_seconds",
    "frozen_units",
    "units",
    "frozen_at",
    "flops",
    "allreduce_bytes",
    "machine",
    "versions",
)


def overrides(arm: str, seed: int, smartfrz: dict[str, Any] | None) -> list[str]:
    """Changes to the demo's job for one arm; ``smartfrz`` is that arm's report for the same seed."""
    chosen = [f"training.seed={seed}"]
    if arm != "smartfrz":
        chosen.append('freeze={"policy": "none"}')
    if arm == "shorter":
        assert smartfrz is not None
        chosen.append(f"training.max_steps={round(smartfrz['steps'] * smartfrz['flops']['ratio'])}")
    return chosen


def run_arm(out: Path, sets: list[str]) -> dict[str, Any]:
    """One demo; its job's report. Raises CalledProcessError when the job failed."""
    report = out / "job_report.json"
    if not report.exists():
        arguments = [word for value in sets for word in ("--set", value)]
        subprocess.run([sys.executable, "-m", "client", "demo", "--out", str(out), *arguments], check=True)
    document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def mean_of(rows: list[dict[str, Any]], arm: str, name: str) -> float:
    return statistics.fmean(row[name] for row in rows if row["arm"] == arm)


def measures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The list form that every benchmark here prints. No bound: the demo shows one workload, it proves no claim."""
    values = {f"{arm}: accuracy": mean_of(rows, arm, "accuracy") for arm in ARMS}
    values |= {f"{arm}: wall seconds": mean_of(rows, arm, "wall_seconds") for arm in ARMS}
    values["smartfrz: FLOPs / full"] = statistics.fmean(r["flops"]["ratio"] for r in rows if r["arm"] == "smartfrz")
    values["smartfrz: all-reduce bytes / full"] = statistics.fmean(
        r["allreduce_bytes"]["ratio"] for r in rows if r["arm"] == "smartfrz"
    )
    return [{"measure": k, "value": round(v, 4), "bound": None, "ok": None} for k, v in values.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-demo"))
    parser.add_argument("--resume", action="store_true", help="keep the arms that a broken run has finished")
    parser.add_argument("--json", metavar="FILE", help="print the measures there too; - for stdout")
    options = parser.parse_args()
    if not options.resume:
        shutil.rmtree(options.runs, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        frozen: dict[str, Any] | None = None
        for arm in ARMS:
            report = run_arm(options.runs / f"{arm}-{seed}", overrides(arm, seed, frozen))
            frozen = report if arm == "smartfrz" else frozen
            rows.append({"arm": arm, "seed": seed, **{name: report.get(name) for name in KEPT}})
    listed = measures(rows)
    document = {"command": f"{COMMAND} --seeds {options.seeds}", "measures": listed, "runs": rows}
    RESULTS.joinpath("demo.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    full = {
        "accuracy": mean_of(rows, "full", "accuracy"),
        "wall_seconds": mean_of(rows, "full", "wall_seconds"),
        "seeds": options.seeds,
        "command": document["command"],
        "machine": rows[0]["machine"],
        "versions": rows[0]["versions"],
    }
    RESULTS.joinpath("demo_full_training.json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    if options.json:
        text = json.dumps(listed, indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
