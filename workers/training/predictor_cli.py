"""``python -m workers.training.predictor_cli collect | label | train | evaluate``: make a predictor, step by step.

Every step reads what the one before left in the corpus folder and can be repeated alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from freezer.errors import FreezerError
from freezer.offline.collect import collect
from freezer.offline.corpus import load_run, run_names, write_json
from freezer.offline.evaluate import compare, measure, parameters, verdicts
from freezer.offline.label import Rule, label_corpus, positive_share
from freezer.offline.train import DEFAULTS, LeftOut, Recipe, prepare, train, window_length
from freezer.offline.windows import Example, load_examples
from freezer.predictor.model import SHIPPED, WEIGHTS, load_predictor, save_predictor
from workers.settings import Settings
from workers.training.errors import TrainingError
from workers.training.predictor_runs import RUNS, RunSpec, plan

EVALUATION_SEED = 1000


def main(arguments: list[str] | None = None) -> int:
    """Run one step; 0 if it did what it was asked, 1 with a sentence on stderr if it cannot."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.corpus = options.corpus or Settings().home / "predictor"
    steps = {"collect": _collect, "label": _label, "train": _train, "evaluate": _evaluate}
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

    step = steps.add_parser("label", parents=[shared], help="decide from the similarity curves when units converged")
    rule = Rule()
    step.add_argument("--window", type=int, default=rule.window, help="probes that must be calm")
    step.add_argument("--variance", type=float, default=rule.variance, help="largest variance among them")
    step.add_argument("--level", type=float, default=rule.level, help="smallest CKA among them")

    step = steps.add_parser("train", parents=[shared], help="train a predictor on the runs of group 'train'")
    step.add_argument("--architecture", choices=sorted(DEFAULTS), default="smartfrz")
    step.add_argument("--context", choices=("auto", "yes", "no"), default="auto", help="auto: if it helps left out")
    step.add_argument("--epochs", type=int, default=Recipe().epochs, help="most that are tried")
    step.add_argument("--lr", type=float, default=Recipe().lr, help="peak learning rate")
    step.add_argument("--per-unit", type=int, default=60, help="windows drawn from every unit of every run")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--out", type=Path, help="default: the shipped weights of this architecture")

    step = steps.add_parser("evaluate", parents=[shared], help="score predictors on what was not in training")
    step.add_argument("--predictor", action="append", default=[], help="a shipped name or a file; may be repeated")
    step.add_argument("--per-unit", type=int, default=60)
    step.add_argument("--length", type=int, help="windows of this length alone (the paper's predictor reads 30)")
    step.add_argument("--json", metavar="FILE", help="the checks for machines, '-' for standard output")
    step.add_argument("--out", type=Path, help="write the whole table here")
    return parser


def _collect(options: argparse.Namespace) -> None:
    settings = Settings()
    chosen = [run for run in RUNS if not options.only or run.name in options.only]
    for number, run in enumerate(chosen, start=1):
        spec = run if options.max_steps is None else _cut(run, options.max_steps)
        _say(f"[{number}/{len(chosen)}] {run.name}")
        collect(plan(spec, settings), options.corpus, progress=_say)


def _cut(run: RunSpec, steps: int) -> RunSpec:
    return RunSpec(**{**asdict(run), "max_steps": steps})


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


def _examples(corpus: Path, group: str, per_unit: int, seed: int, length: int | None) -> list[Example]:
    labels = _labels(corpus)
    names = [run.name for run in RUNS if run.group == group and run.name in labels]
    if (group == "train" and not names) or not labels:
        raise ValueError(f"no labelled run of group {group!r} in {corpus}: collect and label some first")
    return load_examples(corpus, names, labels, per_unit, seed, length)


def _train(options: argparse.Namespace) -> None:
    name: str = options.architecture
    examples = _examples(options.corpus, "train", options.per_unit, options.seed, window_length(name))
    recipe = Recipe(epochs=options.epochs, lr=options.lr, seed=options.seed)
    base = dict(DEFAULTS[name])
    tries = [base]
    if "context" in base:
        tries = [
            {**base, "context": wanted == "yes"} for wanted in ("yes", "no") if options.context in ("auto", wanted)
        ]
    _say(f"{len(examples)} windows of {len({e.run for e in examples})} runs")
    trained = [(config, *train(name, config, examples, recipe)) for config in tries]
    for config, _, left_out in trained:
        _say(f"{config}: log loss on left-out networks {min(left_out.losses):.4f} after {left_out.epochs} epochs")
    config, predictor, left_out = min(trained, key=lambda entry: min(entry[2].losses))
    by_network = _left_out_measures(name, config, examples, left_out)
    for network, row in by_network.items():
        _say(f"  left out {network:20s} {_short(row)}")
    description = {
        "trained_on": sorted({example.run for example in examples}),
        "windows": len(examples),
        "epochs": left_out.epochs,
        "recipe": asdict(recipe),
        "label_rule": json.loads((options.corpus / f"{examples[0].run}.labels.json").read_text())["rule"],
        "left_out_log_loss": {json.dumps(c, sort_keys=True): round(min(x.losses), 4) for c, _, x in trained},
        "left_out_by_network": _rounded(by_network),
    }
    path = save_predictor(predictor, options.out or WEIGHTS / f"{name}.safetensors", description)
    _say(f"{parameters(predictor)} parameters, calibration {[round(float(v), 3) for v in predictor.platt]} -> {path}")


def _left_out_measures(
    name: str, config: dict[str, Any], examples: list[Example], left_out: LeftOut
) -> dict[str, dict[str, float]]:
    """Measures of uncalibrated scores of every network by the predictor that did not see it."""
    data = prepare(name, config, examples)
    scores = torch.sigmoid(left_out.logits).tolist()
    result = {}
    for network in sorted(set(data.networks)):
        rows = [index for index, other in enumerate(data.networks) if other == network]
        result[network] = measure([examples[i] for i in rows], [scores[i] for i in rows])
    return result


def _evaluate(options: argparse.Namespace) -> None:
    names = options.predictor or list(SHIPPED)
    predictors = {Path(name).stem: load_predictor(name) for name in names}
    result: dict[str, Any] = {}
    for group, title in (("network", "a network not in training"), ("dataset", "a known network on unseen data")):
        examples = _examples(options.corpus, group, options.per_unit, EVALUATION_SEED, options.length)
        if not examples:
            continue
        table = compare(predictors, examples)
        runs = sorted({example.run for example in examples})
        result[group] = {"runs": runs, "table": _rounded(table)}
        _say(f"{title}: {', '.join(runs)}; {len(examples)} windows", options.json == "-")
        for name, row in table.items():
            _say(f"  {name:16s} {_short(row)}", options.json == "-")
    if "network" not in result:
        raise ValueError("the corpus holds no run of the group 'network': collect and label one first")
    if options.out is not None:
        write_json(options.out, result)
    if options.json is not None:
        checks = [
            {**check, "measure": f"{group}.{check['measure']}"}
            for group, part in result.items()
            for check in verdicts(part["table"], next(iter(predictors)))
        ]
        text = json.dumps(checks, indent=1)
        if options.json == "-":
            _say(text)
        else:
            Path(options.json).write_text(text + "\n")


def _short(row: dict[str, float]) -> str:
    keys = {
        "roc_auc": "AUC", "average_precision": "AP", "roc_auc_same_tenth": "AUC same tenth", "calibration_error": "ECE",
        "precision_at_half": "precision", "recall_at_half": "recall", "positive_share": "base rate",
    }  # fmt: skip
    return "  ".join(f"{title} {row[key]:.3f}" for key, title in keys.items())


def _rounded(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()}


def _say(text: str, to_stderr: bool = False) -> None:
    print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
