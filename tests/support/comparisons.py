"""A small comparison, and reports as runs of it could have given them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from client.compare import Run

Json = dict[str, Any]

DIGITS: Json = {
    "model": {"name": "vgg-small"},
    "data": {"name": "mnist5k", "train_size": 640, "test_size": 100},
    "training": {"epochs": 4, "batch_size": 16},
    "resources": {"device": "cpu"},
}
DEFINITION: Json = {
    "name": "small",
    "seeds": [0, 1],
    "workloads": {"digits": DIGITS},
    "arms": {
        "full": {},
        "shorter": {"fractions": [0.5, 0.75]},
        "early-stop": {},
        "linear": {"freeze": {"policy": "linear", "options": {"start": 0.2, "level": 0.8}}},
    },
}
UNITS = ["stem", "block.0", "block.1", "head"]


def definition(**changes: Any) -> Json:
    return copy.deepcopy(DEFINITION) | changes


def report(
    accuracy: float,
    flops: float,
    *,
    seconds: float = 10.0,
    allreduce: float = 0.0,
    steps: int = 160,
    resumes: int = 0,
    history: Sequence[tuple[int, Sequence[str], Sequence[str]]] = (),
) -> Json:
    """``history``: (step, frozen, thawed)."""
    frozen: set[str] = set()
    for _, add, remove in history:
        frozen = (frozen | set(add)) - set(remove)
    return {
        "accuracy": accuracy,
        "steps": steps,
        "planned_steps": 160,
        "resumes": resumes,
        "wall_seconds": seconds,
        "train_seconds": seconds - 1.0,
        "units": len(UNITS),
        "frozen_units": len(frozen),
        "flops": {"this_run": flops, "full_training": 100.0, "ratio": flops / 100.0},
        "allreduce_bytes": {"measured": allreduce, "full_training": allreduce, "ratio": None},
        "freezer": {
            "history": [{"step": s, "frozen": list(f), "thawed": list(t), "cause": "policy"} for s, f, t in history]
        },
        "machine": {"device": "cpu", "cpus": 2},
        "versions": {"torch": "2", "python": "3"},
    }


def record(run: Run, of: Json) -> Json:
    """As the folder keeps it."""
    units = [{"name": name, "index": index} for index, name in enumerate(UNITS)]
    return {
        "status": "succeeded",
        "error": None,
        "job_id": "job_1",
        "tries": 1,
        "seconds": 12.0,
        "workers": 1,
        "digest": run.digest,
        "report": of,
        "units": units,
    }


def results(runs: Sequence[Run], reports: Mapping[tuple[str, int], Json]) -> dict[str, Json]:
    """Records by id, from reports by (arm, seed)."""
    return {run.id: record(run, reports[run.arm, run.seed]) for run in runs if (run.arm, run.seed) in reports}
