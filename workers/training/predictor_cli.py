"""``python -m workers.training.predictor_cli STEP``: collect, label, crossval, train, evaluate a predictor.

Every step reads what the one before left in the corpus folder and can be repeated alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from freezer.errors import FreezerError
from freezer.offline.collect import collect
from freezer.offline.corpus import load_run, run_names
from freezer.offline.crossval import train
from freezer.offline.evaluate import checks, evaluate
from freezer.offline.label import Rule, label_corpus, positive_share
from freezer.offline.summary import load_summary, merged, save_summary
from freezer.offline.train import DEFAULTS, Recipe, prepare, readable
from freezer.offline.windows import Example, load_examples
from freezer.predictor.model import WEIGHTS, save_predictor
from workers.settings import Settings
from workers.training.errors import TrainingError
from workers.training.predictor_crossval import crossval
from workers.training.predictor_runs import RUNS, RunSpec, plan

PUBLISHED = ("smartfrz", "smartfrz-paper", "progress-only")
SUMMARY = WEIGHTS / "crossval.safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Run one step; 0 if it did what it was asked, 1 with a sentence on stderr if it cannot."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.corpus = options.corpus or Settings().home / "predictor"
    steps = {"collect": _collect, "label": _label, "crossval": _crossval, "train": _train, "evaluate": _evaluate}
    try:
        steps[options.step](options)
    except (FreezerError, TrainingError, ValueError, OSError) as error:
        print(f"predictor {options.step}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--corpus", type=Path, help="folder of recorded runs (default: <home>/predictor)")
    shared.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser = argparse.ArgumentParser(prog="smartfrz predictor", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)

    step = steps.add_parser("collect", parents=[shared], help="train networks and record their weights; resumable")
    step.add_argument("--only", nargs="+", metavar="RUN", choices=[run.name for run in RUNS], help="some runs")
    step.add_argument("--max-steps", type=int, help="cut every run short, to try things out")
    step.add_argument("--jobs", type=int, default=1, help="runs side by side")

    step = steps.add_parser("label", parents=[shared], help="decide from the similarity curves when units converged")
    rule = Rule()
    step.add_argument("--window", type=int, default=rule.window, help="probes that must be calm")
    step.add_argument("--variance", type=float, default=rule.variance, help="largest variance among them")
    step.add_argument("--level", type=float, default=rule.level, help="smallest CKA among them")

    learning = argparse.ArgumentParser(add_help=False)
    learning.add_argument("--epochs", type=int, default=Recipe().epochs, help="most that are tried")
    learning.add_argument("--lr", type=float, default=Recipe().lr, help="peak learning rate")
    learning.add_argument("--per-unit", type=int, default=60, help="windows drawn from every unit of every run")
    learning.add_argument("--seed", type=int, default=0)
    learning.add_argument("--config", type=json.loads, default={}, help="JSON: changes of the predictor's settings")

    step = steps.add_parser("crossval", parents=[shared, learning], help="leave each network and data set out in turn")
    step.add_argument(
        "--architecture", action="append", choices=sorted(DEFAULTS), help="some; default: those that are published"
    )
    step.add_argument("--weights", type=Path, help="keep the predictor that never saw a network here, for each network")
    step.add_argument(
        "--out", type=Path, default=SUMMARY, help="summary of all left-out scores; what it has of others stays"
    )

    step = steps.add_parser("train", parents=[shared, learning], help="train a predictor on all recorded runs")
    step.add_argument("--architecture", choices=sorted(DEFAULTS), default="smartfrz")
    step.add_argument("--out", type=Path, help="default: the shipped weights of this architecture")

    step = steps.add_parser("evaluate", parents=[shared], help="what the left-out scores are worth")
    step.add_argument("--summary", type=Path, default=SUMMARY, help="default: the shipped one")
    step.add_argument("--length", type=int, help="windows of this length alone (the paper's predictor reads 30)")
    step.add_argument("--json", metavar="FILE", help="the checks for machines, '-' for standard output")
    step.add_argument("--out", type=Path, help="write the whole table here")
    return parser


def _collect(options: argparse.Namespace) -> None:
    settings = Settings()
    chosen = [run for run in RUNS if not options.only or run.name in options.only]
    specs = [run if options.max_steps is None else _cut(run, options.max_steps) for run in chosen]
    if options.jobs == 1:
        for number, spec in enumerate(specs, start=1):
            _say(f"[{number}/{len(specs)}] {spec.name}")
            _collect_one(spec, settings, options.corpus)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(options.jobs, spawn, torch.set_num_threads, (options.threads,)) as pool:
        for future in as_completed([pool.submit(_collect_one, spec, settings, options.corpus) for spec in specs]):
            future.result()


def _collect_one(spec: RunSpec, settings: Settings, corpus: Path) -> None:
    collect(plan(spec, settings), corpus, progress=_say)


def _cut(run: RunSpec, steps: int) -> RunSpec:
    return replace(run, max_steps=steps)


def _label(options: argparse.Namespace) -> None:
    rule = Rule(window=options.window, variance=options.variance, level=options.level)
    everything = label_corpus(options.corpus, rule)
    if not everything:
        raise ValueError(f"no recorded run in {options.corpus}: run `smartfrz predictor collect` first")
    _say(f"{'run':36s} {'units':>5s} {'converge':>8s} {'positive':>8s} {'accuracy':>8s}")
    for name, labels in everything.items():
        run = load_run(options.corpus, name)
        done = sum(step is not None for step in labels.values())
        accuracy = run.meta.outcome.get("test_accuracy", float("nan"))
        _say(f"{name:36s} {len(labels):5d} {done:8d} {positive_share(run, labels):8.2f} {accuracy:8.3f}")


def _labels(corpus: Path) -> dict[str, dict[str, int | None]]:
    found = {}
    for name in run_names(corpus):
        path = corpus / f"{name}.labels.json"
        if not path.is_file():
            raise ValueError(f"{name} has no labels: run `smartfrz predictor label` first")
        found[name] = json.loads(path.read_text())["converged_at"]
    return found


def _examples(options: argparse.Namespace) -> list[Example]:
    labels = _labels(options.corpus)
    names = [run.name for run in RUNS if run.name in labels]
    if not names:
        raise ValueError(f"no labelled run in {options.corpus}: collect and label some first")
    return load_examples(options.corpus, names, labels, options.per_unit, options.seed)


def _recipe(options: argparse.Namespace) -> Recipe:
    return Recipe(epochs=options.epochs, lr=options.lr, seed=options.seed)


def _label_rule(corpus: Path, examples: list[Example]) -> Any:
    return json.loads((corpus / f"{examples[0].run}.labels.json").read_text())["rule"]


def _crossval(options: argparse.Namespace) -> None:
    examples = _examples(options)
    _say(f"{len(examples)} windows of {len({e.run for e in examples})} runs")
    about = {"label_rule": _label_rule(options.corpus, examples), "per_unit": options.per_unit}
    summary = crossval(
        examples,
        options.architecture or PUBLISHED,
        options.config,
        _recipe(options),
        weights=options.weights,
        about=about,
        say=_say,
    )
    if options.out.is_file():
        summary = merged(load_summary(options.out), summary)
    save_summary(options.out, summary)
    _say(f"written to {options.out}")


def _train(options: argparse.Namespace) -> None:
    name: str = options.architecture
    config = {**DEFAULTS[name], **options.config}
    examples = [example for example in _examples(options) if readable(name, example.window)]
    data = prepare(name, config, examples)
    predictor, left_out = train(name, config, data, _recipe(options), data.networks)
    best = left_out.best_epoch(data)
    description = {
        "trained_on": sorted({example.run for example in examples}),
        "windows": len(examples),
        "epochs": best + 1,
        "recipe": asdict(_recipe(options)),
        "label_rule": _label_rule(options.corpus, examples),
        "left_out_log_loss": round(left_out.losses(data)[best], 4),
    }
    path = save_predictor(predictor, options.out or WEIGHTS / f"{name}.safetensors", description)
    count = sum(p.numel() for p in predictor.parameters())
    _say(f"{count} parameters, calibration {[round(float(v), 3) for v in predictor.platt]} -> {path}")


def _evaluate(options: argparse.Namespace) -> None:
    tables = evaluate(load_summary(options.summary), length=options.length)
    quiet = options.json == "-"
    for scheme, table in tables.items():
        _say(f"each {scheme} left out in turn", quiet)
        for name, row in table.items():
            for group, values in {**row["groups"], "mean": row["mean"]}.items():
                _say(f"  {name:16s} {group:20s} {_short(values)}", quiet)
            if (gain := row.get("gain_over_progress_only")) is not None:
                _say(f"  {name:16s} AUC over progress-only {gain['roc_auc']:+.3f}{_intervals(gain, '+.3f')}", quiet)
    if options.out is not None:
        options.out.write_text(json.dumps(tables, indent=1) + "\n")
    if options.json is not None:
        text = json.dumps(checks(tables), indent=1)
        if quiet:
            _say(text)
        else:
            Path(options.json).write_text(text + "\n")


def _short(row: dict[str, Any]) -> str:
    keys = {
        "roc_auc": "AUC", "average_precision": "AP", "roc_auc_same_tenth": "AUC same tenth", "calibration_error": "ECE",
        "positive_share": "base rate",
    }  # fmt: skip
    return "  ".join(f"{title} {row[key]:.3f}" for key, title in keys.items()) + f"  AUC{_intervals(row, '.3f')}"


def _intervals(row: dict[str, Any], form: str) -> str:
    """Of the units of just these groups; and, where there are several, with the groups as the sample."""
    low, high = row["interval"]
    text = f" in [{low:{form}}, {high:{form}}]"
    low, high = row.get("over_groups", (None, None))
    return text if low is None else f"{text}, the groups as the sample [{low:{form}}, {high:{form}}]"


def _say(text: str, to_stderr: bool = False) -> None:
    print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
