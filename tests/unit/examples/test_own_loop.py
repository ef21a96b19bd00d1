"""The example is run as its README says, on a little made-up data."""

from __future__ import annotations

import csv
import gzip
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Twelve rows a class: pixel values of noise around a level that tells the class."""
    rng = random.Random(0)
    path = tmp_path / "digits.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        for number in range(120):
            label = number % 10
            csv.writer(file).writerow([*(rng.randint(0, 25 * label + 5) for _ in range(784)), label])
    return path


def test_it_runs_freezes_and_reports(digits: Path) -> None:
    command = [sys.executable, "examples/own_loop/train.py", "--data", str(digits), "--batch", "8", "--epochs", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--policy", "linear"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "froze 0" in done.stdout
    assert "of 4 units" in done.stdout
    assert "epoch 2" in done.stdout
