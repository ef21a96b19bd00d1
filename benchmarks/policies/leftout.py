"""Learned policies are judged with predictors that never saw a run of the network at hand.

``leftout/<policy>-without-<network>.safetensors``, made by ``smartfrz predictor crossval --weights`` on the corpus of
the shipped predictor, whose every network it leaves out in turn. Jobs name them by their content, so that runs with
other weights are other runs.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from client.files import write_bytes
from freezer.predictor.model import SHIPPED

FOLDER = Path(__file__).parent / "leftout"


def with_leftout(document: dict[str, Any], data: Path, folder: Path = FOLDER) -> dict[str, Any]:
    """The comparison with ``freeze.options.weights`` of every workload set in all arms of learned policies.

    Networks without such a file in ``folder`` have the shipped predictor, which saw none of them.

    Args:
        data: the service's data directory: the files are copied there, and paths are relative to it.
    """
    document = copy.deepcopy(document)
    for arm in document["arms"].values():
        policy = arm.get("freeze.policy")
        if policy not in SHIPPED or "freeze.options.weights" in arm:
            continue
        own = arm.setdefault("workloads", {})
        for name, workload in document["workloads"].items():
            weights = folder / f"{policy}-without-{workload['model']['name']}.safetensors"
            if own.get(name) is not False and weights.is_file():
                own[name] = {"freeze.options.weights": _by_content(weights, data), **own.get(name, {})}
    return document


def _by_content(weights: Path, data: Path) -> str:
    """``<digest>/<name>``, relative to ``data``, where it is afterwards."""
    content = weights.read_bytes()
    place = Path(hashlib.sha256(content).hexdigest()[:8]) / weights.name
    (data / place).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(data / place, content)
    return place.as_posix()
