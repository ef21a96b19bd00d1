"""Learned policies are judged with predictors that never saw a run of the network at hand.

``leftout/<policy>-without-<network>.safetensors``, made by ``smartfrz predictor crossval --weights`` on the corpus of
the shipped predictor, whose every network it leaves out in turn.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from freezer.predictor.model import SHIPPED

FOLDER = Path(__file__).parent / "leftout"


def with_leftout(document: dict[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """The comparison with ``freeze.options.weights`` of every workload set in all arms of learned policies.

    Paths are relative to ``folder``, which must be the service's data directory. Networks without such a file have the
    shipped predictor, which saw none of them.
    """
    document = copy.deepcopy(document)
    for arm in document["arms"].values():
        policy = arm.get("freeze.policy")
        if policy not in SHIPPED or "freeze.options.weights" in arm:
            continue
        own = arm.setdefault("workloads", {})
        for name, workload in document["workloads"].items():
            weights = f"{policy}-without-{workload['model']['name']}.safetensors"
            if own.get(name) is not False and (folder / weights).is_file():
                own[name] = {"freeze.options.weights": weights, **own.get(name, {})}
    return document
