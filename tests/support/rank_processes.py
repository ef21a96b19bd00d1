"""One process for each rank of a distributed test: started, waited for, and none outlives the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(module: str, world: int, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """``python -m module RANK WORLD ARGUMENTS`` for each rank, one thread each."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(world), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def wait(ranks: Sequence[subprocess.Popen[str]], *codes: int, seconds: float) -> None:
    """Until all have ended; fails with their output unless each did with one of the codes, by default 0."""
    try:
        outputs = [rank.communicate(timeout=seconds)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    if any(rank.returncode not in (codes or (0,)) for rank in ranks):
        pytest.fail("\n".join(outputs))
