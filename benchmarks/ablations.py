"""What each choice of the predictor is worth on networks left out: ``python -m benchmarks.ablations``.

Needs a labelled corpus. Everything but the choice in question is the default's; the windows are the same wherever the
choice allows. Writes benchmarks/results/ablations.json after each row, so that a broken run loses nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from freezer.offline.bootstrap import cluster_weights, interval, weighted_roc_auc
from freezer.offline.corpus import run_names, write_json
from freezer.offline.crossval import honest_probabilities, leave_one_out
from freezer.offline.train import DEFAULTS, Recipe, prepare, readable
from freezer.offline.windows import Example, load_examples
from freezer.predictor.features import CONTEXT_NAMES
from workers.settings import Settings

RESULT = Path(__file__).parent / "results" / "ablations.json"
GROUPS = {
    "progress": ("progress", "log_progress", "log_remaining"),
    "depth": ("depth", "log_position"),
    "learning rate": ("lr_ratio", "log_lr_ratio"),
    "spacing": ("log_span", "log_interval"),
    "what moves before the unit": ("upstream_drift", "upstream_peak"),
}
"""What the context tells, together left out."""
Draw = Callable[[int | None], list[Example]]


def choices(draw: Draw) -> Iterator[tuple[str, str, dict[str, Any], list[Example]]]:
    """``(row, architecture, settings, examples)``."""
    default = dict(DEFAULTS["smartfrz"])
    mixed = draw(None)
    yield "smartfrz", "smartfrz", default, mixed
    yield "control: progress-only", "progress-only", {}, mixed
    for beside, name in (("none", "none"), ("all", "tokens too")):
        yield f"linear part: {name}", "smartfrz", {**default, "linear": beside}, mixed
    for pool, name in (("mean", "mean over time"), ("newest", "newest token alone")):
        yield f"attention -> {name}", "smartfrz", {**default, "pool": pool}, mixed
    yield "attention -> linear model", "linear", {}, mixed
    yield "context: none", "smartfrz", {**default, "context": False}, mixed
    for gone, names in GROUPS.items():
        kept = [name for name in CONTEXT_NAMES if name not in names]
        yield f"context: without {gone}", "smartfrz", {**default, "context": kept}, mixed
    for count in (128, 256):
        yield f"samples: {count} of 1024", "smartfrz", default, thinned(mixed, count)
    for length in (8, 15, 30, 60):
        examples = draw(length)
        yield f"window: {length}", "smartfrz", default, examples
        yield f"window: {length}, control: progress-only", "progress-only", {}, examples
        if length == 30:
            yield "window: 30, raw weights (smartfrz-paper)", "smartfrz-paper", {}, examples


def thinned(examples: Sequence[Example], count: int) -> list[Example]:
    """The same windows over fewer of the sampled weights."""
    columns = torch.randperm(1024, generator=torch.Generator().manual_seed(0))[:count]
    return [
        dataclasses.replace(e, window=dataclasses.replace(e.window, values=e.window.values[:, columns]))
        for e in examples
    ]


def row_of(architecture: str, config: dict[str, Any], examples: Sequence[Example], recipe: Recipe) -> dict[str, Any]:
    """Mean ROC-AUC over the networks left out in turn, its interval over units, and the log loss."""
    started = time.monotonic()
    chosen = [example for example in examples if readable(architecture, example.window)]
    data = prepare(architecture, config, chosen)
    left_out = leave_one_out(architecture, config, data, recipe, data.networks)
    scores = honest_probabilities(left_out, data)
    runs = sorted({example.run for example in chosen})
    clusters = torch.tensor([runs.index(e.run) * 10_000 + e.unit for e in chosen])
    by_network, drawn = {}, []
    for network in sorted(set(data.networks)):
        rows = torch.tensor([other == network for other in data.networks])
        labels = data.labels[rows].bool()
        count = int(rows.sum())
        by_network[network] = round(float(weighted_roc_auc(labels, scores[rows], torch.ones(1, count))), 4)
        drawn.append(weighted_roc_auc(labels, scores[rows], cluster_weights(clusters[rows], 500, seed=0)))
    best = left_out.best_epoch(data)
    return {
        "roc_auc": round(sum(by_network.values()) / len(by_network), 4),
        "interval": [round(value, 4) for value in interval(torch.stack(drawn).nanmean(0))],
        "by_network": by_network,
        "log_loss": round(left_out.losses(data)[best], 4),
        "epochs": best + 1,
        "windows": len(chosen),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--per-unit", type=int, default=24, help="windows drawn from every unit of every run")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs, help="most that are tried")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus: Path = options.corpus or Settings().home / "predictor"
    names = [name for name in run_names(corpus) if (corpus / f"{name}.labels.json").is_file()]
    labels = {n: json.loads((corpus / f"{n}.labels.json").read_text())["converged_at"] for n in names}

    def draw(length: int | None) -> list[Example]:
        return load_examples(corpus, names, labels, options.per_unit, 0, length)

    command = f"python -m benchmarks.ablations --per-unit {options.per_unit} --epochs {options.epochs}"
    result: dict[str, Any] = {"command": command, "machine": platform.machine(), "runs": names, "rows": {}}
    for name, architecture, config, examples in choices(draw):
        row = result["rows"][name] = row_of(architecture, config, examples, Recipe(epochs=options.epochs))
        write_json(RESULT, result)
        low, high = row["interval"]
        print(f"{name:44s} AUC {row['roc_auc']:.3f} [{low:.3f}, {high:.3f}]  loss {row['log_loss']:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
