"""What the ranks of one job say to each other, in two real processes over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.rank_processes import rendezvous

SCRIPT = Path(__file__).parent.parent / "support" / "two_ranks.py"


def two(what: str, out: Path, timeout: float) -> list[dict[str, Any]]:
    _store, meeting = rendezvous()
    env = os.environ | meeting | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, str(SCRIPT), what, str(out), str(timeout)], env=env | {"RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.wait(90) == 0
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_both_ranks_hold_the_same(tmp_path: Path) -> None:
    first, second = two("promises", tmp_path, 60)
    assert first.pop("gather") == ["r0", "r1"]
    assert second.pop("gather") is None
    assert first == second
    assert first == {
        "broadcast": [1, 7],
        "object": {"from": 0},
        "sum": [3.0, 1.0],
        "mean": 5.0,
        "score": [pytest.approx(6 / 7), 7],
    }


def test_a_peer_that_hangs_is_a_collective_timeout(tmp_path: Path) -> None:
    first, _ = two("hang", tmp_path, 4)
    assert (first["reason"], first["peer_lost"]) == ("collective_timeout", False), first["text"]
