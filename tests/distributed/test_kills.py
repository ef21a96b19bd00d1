"""Killed anywhere and resumed, a run ends with the same bits: every policy, one rank and two."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from freezer.config import POLICIES
from tests.support.rank_processes import PATIENCE, start, wait

pytestmark = pytest.mark.timeout(2 * PATIENCE + 20)

EVENTS = {"agreed", "frozen", "thawed", "saving"}


def run(folder: Path, world: int, job: dict[str, Any], name: str, *codes: int, seconds: float = PATIENCE) -> None:
    """All ranks of one job, until they have ended with one of the codes."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**job, "rendezvous": str(folder / f"{name}.rendezvous")}))
    wait(start("tests.distributed.kills", world, folder, file), *codes, seconds=seconds)


def judge(folder: Path, world: int, policies: tuple[str, ...]) -> None:
    for policy in policies:
        results = [json.loads((folder / policy / f"{rank}.json").read_text()) for rank in range(world)]
        for result in results:
            assert not result["differ"], f"{policy}: {result['differ']}"
            assert {what for what, _ in result["moments"]} >= EVENTS, policy
            certain = [m for m in result["moments"] if not m[0].startswith("cache")]  # the cache's trials are timed
            assert result["died"] >= len(certain), policy
            assert result["history"] == results[0]["history"]


def test_one_rank_every_policy(tmp_path: Path) -> None:
    run(tmp_path, 1, {"policies": POLICIES}, "job")
    judge(tmp_path, 1, POLICIES)
    histories = {p: json.loads((tmp_path / p / "0.json").read_text())["history"] for p in POLICIES if p != "none"}
    idle = [p for p, history in histories.items() if not any(e["cause"] == "policy" for e in history)]
    assert not idle, "policies that froze nothing prove nothing"


def test_two_ranks_every_policy(tmp_path: Path) -> None:
    run(tmp_path, 2, {"policies": POLICIES}, "job")
    judge(tmp_path, 2, POLICIES)


@pytest.mark.parametrize(
    ("world", "moments"),
    [(1, [["thawed", 11]]), (2, [["agreed", 5]])],
    ids=["one rank, in a thaw", "two ranks, between agreement and application"],
)
def test_sigkill(tmp_path: Path, world: int, moments: list[Any]) -> None:
    killed(tmp_path, world, "linear", moments)


def killed(folder: Path, world: int, policy: str, moments: list[Any]) -> None:
    """Kill all ranks at each of the moments, start them again each time, and compare with an undisturbed run."""
    job = {"policies": [policy], "kill": True, "moments": moments}
    for number in range(len(moments)):
        run(folder, world, job, f"killed{number}", -signal.SIGKILL)
    run(folder, world, job, "last")
    for rank in range(world):
        assert json.loads((folder / policy / "killed" / f"deaths{rank}.json").read_text()) == moments
        assert json.loads((folder / policy / f"{rank}.json").read_text()) == {"differ": []}


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", [1, 2])
def test_every_moment_apart(tmp_path: Path, world: int) -> None:
    run(tmp_path, world, {"policies": POLICIES, "apart": True}, "job", seconds=590)
    judge(tmp_path, world, POLICIES)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("world", [1, 2])
def test_sigkill_at_every_moment(tmp_path: Path, world: int, policy: str) -> None:
    moments = [[what, step] for step in (5, 11) for what in ("passed", "stepped", "agreed")]
    killed(tmp_path, world, policy, [*moments, ["thawed", 11], ["saving", 11]])
