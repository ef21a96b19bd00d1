"""What the shipped predictor is worth and what a decision costs: ``python -m benchmarks.predictor``.

Needs a labelled corpus (``smartfrz predictor collect`` and ``label``), and reads the shipped scores of ``crossval``.
Writes benchmarks/results/predictor.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from freezer.offline.corpus import load_run, run_names, write_json
from freezer.offline.evaluate import checks, evaluate
from freezer.offline.label import positive_share
from freezer.offline.summary import load_summary
from freezer.predictor.features import Window
from freezer.predictor.model import SHIPPED, load_predictor
from workers.settings import Settings
from workers.training.predictor_cli import SUMMARY

RESULT = Path(__file__).parent / "results" / "predictor.json"


def decision_milliseconds(name: str, units: int, repeats: int = 30) -> float:
    """Median time of one freezing stage over ``units`` full windows of 30 x 1024, one thread, features included."""
    predictor = load_predictor(name)
    generator = torch.Generator().manual_seed(0)
    windows = [
        Window(
            values=torch.randn(30, 1024, generator=generator).cumsum(0),
            steps=tuple(range(30)),
            total_steps=100,
            depth=unit / units,
            lr_ratio=1.0,
        )
        for unit in range(units)
    ]
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        predictor.probabilities(windows)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[3:])


def corpus_summary(folder: Path) -> list[dict[str, object]]:
    """What every recorded run was, how it ended and how much of it counts as converged."""
    rows: list[dict[str, object]] = []
    for name in run_names(folder):
        run = load_run(folder, name)
        labels = json.loads((folder / f"{name}.labels.json").read_text())["converged_at"]
        rows.append(
            {
                "run": name,
                "recipe": run.meta.recipe,
                "steps": run.meta.total_steps,
                "units": len(run.meta.units),
                "seconds": run.meta.seconds,
                "outcome": {key: round(value, 4) for key, value in run.meta.outcome.items()},
                "converged_at": labels,
                "positive_share": round(positive_share(run, labels), 4),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    corpus = options.corpus or Settings().home / "predictor"
    torch.set_num_threads(1)
    summary = load_summary(SUMMARY)
    tables = {title: evaluate(summary, length=length) for title, length in (("any_length", None), ("length_30", 30))}
    result: dict[str, object] = {
        "command": "python -m benchmarks.predictor",
        "machine": platform.machine(),
        "measures": checks(tables["any_length"]),
        **tables,
        "decision_milliseconds": {
            name: {str(units): round(decision_milliseconds(name, units), 2) for units in (10, 40, 160)}
            for name in SHIPPED
        },
        "corpus": corpus_summary(corpus),
    }
    write_json(RESULT, result)
    print(json.dumps(result["decision_milliseconds"]))
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
