"""Recorded runs on disk: ``<name>.safetensors`` (numbers), ``<name>.json`` (what they are), ``<name>.labels.json``.

The .json is written last, so a run that has one is complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMeta:
    """What a recorded run is.

    Attributes:
        name: file name without suffix.
        network, dataset, seed, pretrained: what was trained.
        units: names in execution order; axis ``U`` below.
        total_steps: optimizer steps of the run.
        recipe: how it was trained, for the model card.
        outcome: final loss and whatever else the caller measured.
        seconds: wall time of collecting it.
    """

    name: str
    network: str
    dataset: str
    seed: int
    pretrained: bool
    units: list[str]
    total_steps: int
    recipe: dict[str, Any]
    outcome: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run.

    Attributes:
        meta: what it is.
        values: float32 ``(K, U, samples)``: weights at each of ``K`` snapshots.
        steps: int64 ``(K,)``: completed steps at each snapshot.
        lr: float32 ``(K,)``: learning rate relative to the initial one.
        probe_steps: int64 ``(P,)``.
        cka: float32 ``(P, U)``: similarity of each unit's output to the finished model's; NaN where undefined.
    """

    meta: RunMeta
    values: Tensor
    steps: Tensor
    lr: Tensor
    probe_steps: Tensor
    cka: Tensor


def is_done(directory: Path, name: str) -> bool:
    return (directory / f"{name}.json").is_file() and (directory / f"{name}.safetensors").is_file()


def save_run(directory: Path, run: Run) -> None:
    """Write the run, complete or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        "values": run.values,
        "steps": run.steps,
        "lr": run.lr,
        "probe_steps": run.probe_steps,
        "cka": run.cka,
    }
    scratch = directory / f"{run.meta.name}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)
    os.replace(scratch, directory / f"{run.meta.name}.safetensors")
    write_json(directory / f"{run.meta.name}.json", asdict(run.meta))


def load_run(directory: Path, name: str) -> Run:
    tensors = load_file(directory / f"{name}.safetensors")
    meta = RunMeta(**json.loads((directory / f"{name}.json").read_text()))
    return Run(meta, tensors["values"], tensors["steps"], tensors["lr"], tensors["probe_steps"], tensors["cka"])


def run_names(directory: Path) -> list[str]:
    """Names of the complete runs, sorted."""
    names = (path.stem for path in directory.glob("*.json") if not path.name.endswith(".labels.json"))
    return sorted(name for name in names if is_done(directory, name))


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".json.tmp")
    scratch.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(scratch, path)
