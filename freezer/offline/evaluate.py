"""What predictors are worth on networks and data that they never saw, beside controls blind to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from freezer.offline import metrics
from freezer.offline.bootstrap import cluster_weights, interval, weighted_roc_auc
from freezer.offline.summary import SCHEMES, Summary
from freezer.student import student

CONTROL = "progress-only"
RESAMPLES = 1000
BOUNDS = {"roc_auc": 0.90, "roc_auc_minus_progress_only": 0.05}
"""Of ``smartfrz`` on networks left out, means over networks."""


def evaluate(summary: Summary, *, resamples: int = RESAMPLES, length: int | None = None) -> dict[str, Any]:
    """Tables by scheme: for each predictor and the random control, every group and the mean over groups.

    ``interval`` (95 %) comes from resampling the units of each group, which are taken as given: it says how sure the
    figure is of just these runs, whose units have much in common. ``over_groups`` (Student's t) takes the groups as the
    sample: it is the one that speaks of a network, or a data set, that is not among them.

    With ``length`` windows of that many snapshots alone count, those that every predictor can read.
    """
    found: dict[str, Any] = {}
    for scheme in SCHEMES:
        scores = {**summary.probabilities[scheme], "random": _random(len(summary.labels))}
        own = summary.groups(scheme)
        of_run = torch.tensor([sorted(set(own)).index(name) for name in own])
        kept = torch.ones_like(summary.labels) if length is None else summary.snapshots == length
        readable = {name: kept & ~values.isnan() for name, values in scores.items()}
        tables: dict[str, Any] = {name: {"groups": {}} for name in scores}
        drawn: dict[str, list[Tensor]] = {name: [] for name in scores}
        for number, group in enumerate(sorted(set(own))):
            inside = of_run[summary.run] == number
            for name, values in scores.items():
                rows = (inside & readable[name]).nonzero().flatten()
                if not len(rows):
                    continue
                row, aucs = _measure(summary, values, rows, resamples)
                tables[name]["groups"][group] = row
                drawn[name].append(aucs)
        for name, table in tables.items():
            table["mean"] = _mean(list(table["groups"].values()), drawn[name])
        control = drawn.get(CONTROL)
        for name, table in tables.items():
            if control is not None and name != CONTROL and len(drawn[name]) == len(control):
                # the same resamples on both sides: same units, same seed
                gains = torch.stack(drawn[name]).nanmean(0) - torch.stack(control).nanmean(0)
                table["gain_over_progress_only"] = {
                    "roc_auc": table["mean"]["roc_auc"] - tables[CONTROL]["mean"]["roc_auc"],
                    "interval": interval(gains),
                    "over_groups": _over_groups(table["groups"], tables[CONTROL]["groups"]),
                }
        found[scheme] = {name: table for name, table in tables.items() if table["groups"]}
    return found


def checks(tables: Mapping[str, Any], subject: str = "smartfrz") -> list[dict[str, Any]]:
    """``{measure, value, bound, ok}`` for machines."""
    found: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        own, control = tables[scheme][subject], tables[scheme][CONTROL]
        values = {
            "roc_auc": own["mean"]["roc_auc"],
            "roc_auc_minus_progress_only": own["gain_over_progress_only"]["roc_auc"],
            "average_precision": own["mean"]["average_precision"],
            "calibration_error": own["mean"]["calibration_error"],
            "progress-only: roc_auc": control["mean"]["roc_auc"],
            "progress-only: calibration_error": control["mean"]["calibration_error"],
        }
        for name, value in values.items():
            bound = BOUNDS.get(name) if scheme == "network" else None
            ok = None if bound is None else bool(value >= bound)
            found.append({"measure": f"{scheme} left out: {name}", "value": round(value, 4), "bound": bound, "ok": ok})
    return found


def _measure(summary: Summary, values: Tensor, rows: Tensor, resamples: int) -> tuple[dict[str, Any], Tensor]:
    labels, scores = summary.labels[rows], values[rows]
    runs, units = summary.run[rows], summary.unit[rows]
    tenths = (summary.progress[rows] * 10).long()
    said, truth = scores.tolist(), labels.tolist()
    aucs = weighted_roc_auc(labels, scores, cluster_weights(runs * 10_000 + units, resamples, seed=0))
    row = {
        "windows": len(truth),
        "positive_share": sum(truth) / len(truth),
        "roc_auc": metrics.roc_auc(truth, said),
        "interval": interval(aucs),
        "average_precision": metrics.average_precision(truth, said),
        # the same tenth of the same run: only what tells units apart counts there
        "roc_auc_same_tenth": metrics.stratified_auc(truth, said, (runs * 100 + tenths).tolist()),
        "calibration_error": metrics.calibration_error(truth, said),
        "brier": metrics.brier(truth, said),
    }
    return row, aucs


def _mean(rows: list[dict[str, Any]], drawn: list[Tensor]) -> dict[str, Any]:
    """Mean over groups of each measure; NaN where a group has but one class is left out."""
    if not rows:
        return {}
    names = [name for name in rows[0] if name not in ("windows", "interval")]
    means: dict[str, Any] = {}
    for name in names:
        good = [row[name] for row in rows if not math.isnan(row[name])]
        means[name] = sum(good) / len(good) if good else math.nan
    of_units = interval(torch.stack(drawn).nanmean(0))
    return {
        **means,
        "interval": of_units,
        "over_groups": _spread([row["roc_auc"] for row in rows]),
        "groups": len(rows),
    }


def _over_groups(own: Mapping[str, Any], control: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Of the gain in ROC-AUC, group by group."""
    return _spread([row["roc_auc"] - control[group]["roc_auc"] for group, row in own.items() if group in control])


def _spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    return student([value for value in values if not math.isnan(value)])


def _random(count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(0))
