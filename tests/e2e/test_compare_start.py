"""``smartfrz compare`` where runs start from a job that trains first: real training in a private stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPE: dict[str, Any] = {
    "model": {"name": "resnet-small", "options": {"width": 4}},
    "training": {"max_steps": 10, "batch_size": 16},
    "resources": {"device": "cpu"},
}


def data(*classes: int) -> dict[str, Any]:
    return {"name": "mnist5k", "train_size": 160, "test_size": 50, "options": {"classes": classes}}


DEFINITION = {
    "seeds": [3],
    "workloads": {
        "other-half": RECIPE | {"data": data(5, 6, 7, 8, 9), "start": RECIPE | {"data": data(0, 1, 2, 3)}},
    },
    "arms": {"full": {}, "static": {"freeze": {"policy": "static", "options": {"first": 1}}}},
}


@pytest.mark.timeout(120)
def test_runs_start_from_the_weights_of_a_job_that_trained_first(
    tmp_path: Path, packages_dir: Path, need: Callable[[str], Path]
) -> None:
    need("mnist5k")
    file, out = tmp_path / "tuned.json", tmp_path / "out"
    file.write_text(json.dumps(DEFINITION))
    command = [sys.executable, "-m", "client", "compare", str(file), "--out", str(out), "--dest", str(packages_dir)]
    environment = {name: value for name, value in os.environ.items() if name != "SMARTFRZ_URL"}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    start, full, static = (
        json.loads((out / "runs" / f"other-half--{arm}--3.json").read_text()) for arm in ("start", "full", "static")
    )
    assert start["report"]["init_from"] is None
    assert start["report"]["frozen_units"] == 0
    for run in (full, static):
        inherited = run["report"]["init_from"]
        assert inherited["job_id"] == start["job_id"]
        assert inherited["tensors"] > 20
        assert len(inherited["fresh"]) == 2, "the head of four classes is none of five"
    document = json.loads((out / "comparison.json").read_text())
    assert [(found["seed"], found["accuracy"]) for found in document["starts"]] == [(3, start["report"]["accuracy"])]
    assert [row["arm"] for row in document["table"]] == ["full", "static"]
    assert not (out / "home").exists(), "the files of the start went with the last run that needed them"
