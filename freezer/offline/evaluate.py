"""Score predictors on recorded runs of networks that they never saw, beside controls blind to weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from freezer.offline import metrics
from freezer.offline.windows import Example
from freezer.predictor.networks import PaperPredictor, Predictor


def probabilities(predictor: Predictor, examples: Sequence[Example]) -> list[float]:
    """Calibrated probabilities of all examples."""
    result: list[float] = []
    for start in range(0, len(examples), 512):
        result += predictor.probabilities([example.window for example in examples[start : start + 512]])
    return result


def random_scores(examples: Sequence[Example], seed: int = 0) -> list[float]:
    """The random control: scores without any knowledge."""
    rng = random.Random(seed)
    return [rng.random() for _ in examples]


def measure(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float]:
    """All measures of one list of probabilities against the labels."""
    labels = [example.label for example in examples]
    # The same tenth of the same run: only what tells units apart counts there.
    strata = [(example.run, int(example.window.progress * 10)) for example in examples]
    precision, recall = metrics.precision_recall(labels, scores, 0.5)
    return {
        "windows": len(labels),
        "positive_share": sum(labels) / len(labels),
        "roc_auc": metrics.roc_auc(labels, scores),
        "average_precision": metrics.average_precision(labels, scores),
        "roc_auc_same_tenth": metrics.stratified_auc(labels, scores, strata),
        "calibration_error": metrics.calibration_error(labels, scores),
        "brier": metrics.brier(labels, scores),
        "precision_at_half": precision,
        "recall_at_half": recall,
    }


def compare(predictors: Mapping[str, Predictor], examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Measures of every predictor and of the random control on the same windows.

    The paper's predictor is scored on the windows it can read; its ``windows`` says how many those are.
    """
    table: dict[str, dict[str, float]] = {}
    for name, predictor in predictors.items():
        readable = list(examples)
        if isinstance(predictor, PaperPredictor):
            readable = [example for example in examples if tuple(example.window.values.shape) == (30, 1024)]
        if readable:
            table[name] = measure(readable, probabilities(predictor, readable))
    table["random"] = measure(examples, random_scores(examples))
    return table


def verdicts(table: Mapping[str, Mapping[str, float]], subject: str = "smartfrz") -> list[dict[str, Any]]:
    """Checks for machines: ``{measure, value, bound, ok}``. The bounds are the controls', not wishes."""
    own, control = table[subject], table["progress-only"]
    checks = [
        ("roc_auc", own["roc_auc"], 0.5),
        ("roc_auc_minus_progress_only", own["roc_auc"] - control["roc_auc"], 0.0),
        ("average_precision_minus_progress_only", own["average_precision"] - control["average_precision"], 0.0),
        ("roc_auc_same_tenth", own["roc_auc_same_tenth"], 0.5),
        ("calibration_error", own["calibration_error"], control["calibration_error"]),
    ]
    result = []
    for name, value, bound in checks:
        ok = value <= bound if name == "calibration_error" else value > bound
        result.append({"measure": name, "value": round(value, 4), "bound": round(bound, 4), "ok": bool(ok)})
    return result


def parameters(predictor: torch.nn.Module) -> int:
    return sum(p.numel() for p in predictor.parameters())
