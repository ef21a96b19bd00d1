"""Runs kept in the repository: another machine goes on from them, and shows the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies.kept import keep, restore, slim
from client.compare import Folder, Run, analyse, expand, parse
from client.compare.expand import starts_of

JOB: dict[str, Any] = {
    "model": {"name": "resnet-small"},
    "data": {"name": "mnist5k", "train_size": 640},
    "training": {"epochs": 2, "batch_size": 32},
}
COMPARISON = parse(
    {
        "name": "two",
        "seeds": [0, 1],
        "workloads": {"tuned": {**JOB, "start": JOB}},
        "arms": {"full": {}, "early": {"freeze.policy": "linear"}},
    }
)
RUNS = expand(COMPARISON)


def record(run: Run) -> dict[str, Any]:
    history = [{"step": 9, "frozen": ["stem"], "thawed": [], "probabilities": {"stem": 0.9}, "plan_hash": "f00"}]
    report = {
        "accuracy": 0.9 + 0.01 * run.seed,
        "steps": 40,
        "units": 2,
        "frozen_units": int(run.kind == "policy"),
        "wall_seconds": 3.0,
        "train_seconds": 2.0,
        "flops": {"this_run": 50.0, "full_training": 100.0},
        "freeze_config": {"threshold": 0.75},
        "machine": {"cpus": 2},
        "versions": {"torch": "2"},
        "freezer": {"history": history if run.kind == "policy" else [], "overhead_seconds": 1.0},
        "savings": {"large": list(range(100))},
    }
    units = [{"name": "stem", "flops": 1.0}, {"name": "head", "flops": 2.0}]
    return {"status": "succeeded", "error": None, "tries": 1, "seconds": 4.0, "report": report, "units": units}


def filled(root: Path) -> Folder:
    folder = Folder(root)
    for run in (*RUNS, *starts_of(RUNS)):
        folder.write(run, record(run))
    return folder


def test_another_folder_shows_the_same(tmp_path: Path) -> None:
    first, second, path = filled(tmp_path / "a"), Folder(tmp_path / "b"), tmp_path / "runs.jsonl"
    keep(first.results(RUNS), path, "here")
    assert restore(path, second, RUNS) == len(RUNS) + 2  # the starts of two seeds too
    assert second.unfinished(RUNS) == []

    def shown(folder: Folder) -> dict[str, Any]:
        found = analyse(COMPARISON, RUNS, folder.results(RUNS))
        return {name: value for name, value in found.items() if name != "runs"}

    assert shown(second) == shown(first)
    keep(second.results(RUNS), tmp_path / "again.jsonl", "there")
    assert (tmp_path / "again.jsonl").read_text() == path.read_text()


def test_a_record_of_its_own_or_of_another_spec_stays(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    keep(filled(tmp_path / "a").results(RUNS), path, "here")
    own = Folder(tmp_path / "b")
    own.write(RUNS[0], {"status": "failed", "error": "no room", "tries": 1})
    changed = json.loads(path.read_text().splitlines()[-1])
    path.write_text(path.read_text() + json.dumps({**changed, "digest": "other"}) + "\n")
    restore(path, own, RUNS)
    assert own.results(RUNS)[RUNS[0].id]["status"] == "failed"
    assert changed["id"] not in own.results(RUNS)


def test_failures_are_not_kept_and_a_line_is_short(tmp_path: Path) -> None:
    folder, path = filled(tmp_path / "a"), tmp_path / "runs.jsonl"
    folder.write(RUNS[0], {"status": "failed", "error": "no room", "tries": 1})
    keep(folder.results(RUNS), path, "here")
    assert RUNS[0].id not in path.read_text()
    kept = slim(folder.results(RUNS)[RUNS[1].id])["report"]
    assert "savings" not in kept
    assert kept["freeze_config"] == {"threshold": 0.75}, "with which defaults it ran"


def test_nothing_kept_nothing_restored(tmp_path: Path) -> None:
    assert restore(tmp_path / "none.jsonl", Folder(tmp_path / "b"), RUNS) == 0


@pytest.mark.parametrize("line", ['{"id": "a--full--0", "dig', "[]", "{}"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "runs.jsonl"
    keep(filled(tmp_path / "a").results(RUNS), path, "here")
    count = len(path.read_text().splitlines())
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=f"line {count + 1} of .*runs.jsonl is no record of a run"):
        restore(path, Folder(tmp_path / "b"), RUNS)


def test_seconds_of_two_places_are_not_compared(tmp_path: Path) -> None:
    first, second, path = filled(tmp_path / "a"), Folder(tmp_path / "b"), tmp_path / "runs.jsonl"
    keep(first.results(RUNS), path, first.token())
    mine = next(run for run in RUNS if (run.arm, run.seed) == ("early", 0))
    second.write(mine, record(mine))
    restore(path, second, RUNS)
    full, early = analyse(COMPARISON, RUNS, second.results(RUNS))["table"]
    assert early["accuracy_difference"]["n"] == full["wall_ratio"]["n"] == 2
    assert list(early["wall_ratio"]["by_seed"]) == list(early["train_seconds_ratio"]["by_seed"]) == ["1"]
