"""Scores of left-out windows as one small file: all that an evaluation needs, without the recorded runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freezer.errors import PredictorError
from freezer.predictor import tensorfile

SCHEMES = ("network", "dataset")


@dataclass(frozen=True, slots=True)
class Summary:
    """``N`` windows and what predictors said of them that saw nothing of their network (or data set).

    Attributes:
        runs: name, network and data set of each run, and how it was trained.
        run: int64 ``(N,)``, index into ``runs``; ``unit`` int64 ``(N,)``, position in execution order.
        progress: float32 ``(N,)``, share of the run that had passed.
        snapshots: int64 ``(N,)``, length of the window.
        labels: bool ``(N,)``: the unit had converged.
        probabilities: by scheme and predictor, float32 ``(N,)``; NaN for windows that a predictor cannot read.
        about: how it was made; JSON values.
    """

    runs: Sequence[Mapping[str, Any]]
    run: Tensor
    unit: Tensor
    progress: Tensor
    snapshots: Tensor
    labels: Tensor
    probabilities: Mapping[str, Mapping[str, Tensor]]
    about: Mapping[str, Any]

    def groups(self, scheme: str) -> list[str]:
        """Network or data set of each run."""
        return [str(run[scheme]) for run in self.runs]


def merged(old: Summary, new: Summary) -> Summary:
    """``new`` with what ``old`` has of other predictors, if the windows are the same; else ``new``."""
    same = (
        [run["name"] for run in old.runs] == [run["name"] for run in new.runs]
        and torch.equal(old.run, new.run)
        and torch.equal(old.unit, new.unit)
        and torch.equal(old.snapshots, new.snapshots)
        and torch.equal(old.labels, new.labels)
    )
    if not same:
        return new
    scores = {s: {**old.probabilities.get(s, {}), **table} for s, table in new.probabilities.items()}
    about = {
        **new.about,
        "earlier": [*old.about.get("earlier", []), {k: v for k, v in old.about.items() if k != "earlier"}],
    }
    return Summary(new.runs, new.run, new.unit, new.progress, new.snapshots, new.labels, scores, about)


def save_summary(path: Path, summary: Summary) -> None:
    """Write the file, complete or not at all."""
    tensors = {
        "run": summary.run.to(torch.int16),
        "unit": summary.unit.to(torch.int16),
        "progress": summary.progress.to(torch.float16),
        "snapshots": summary.snapshots.to(torch.int16),
        "labels": summary.labels.to(torch.uint8),
    }
    for scheme, table in summary.probabilities.items():
        tensors |= {f"{scheme}/{name}": values.to(torch.float32) for name, values in table.items()}
    header = {"format": "smartfrz-crossval", "runs": json.dumps(summary.runs), "about": json.dumps(summary.about)}
    tensorfile.write(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)  # none may share memory


def load_summary(path: Path) -> Summary:
    """Read it back.

    Raises:
        PredictorError: there is no such file, or it is something else.
    """
    if not path.is_file():
        raise PredictorError(f"no summary of left-out scores at {path}: make one with `smartfrz predictor crossval`")
    header, tensors = tensorfile.read(path, "a summary of left-out scores")
    if header.get("format") != "smartfrz-crossval":
        raise PredictorError(f"{path} holds no summary of left-out scores")
    scores: dict[str, dict[str, Tensor]] = {scheme: {} for scheme in SCHEMES}
    for key, tensor in tensors.items():
        scheme, _, name = key.partition("/")
        if name:
            scores[scheme][name] = tensor
    return Summary(
        json.loads(header["runs"]),
        tensors["run"].long(),
        tensors["unit"].long(),
        tensors["progress"].float(),
        tensors["snapshots"].long(),
        tensors["labels"].bool(),
        scores,
        json.loads(header["about"]),
    )
