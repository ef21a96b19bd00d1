"""The rank processes themselves, as the guardian starts them, without service around."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import StoreUrl
from tests.support.equality import same
from tests.support.rank_processes import PATIENCE, rendezvous
from workers.jobs import state
from workers.jobs.layout import AttemptFiles, AttemptSpec, Control, JobFiles, Result, write_atomic
from workers.jobs.record import JobRecord
from workers.jobs.spec import JobSpec
from workers.redis_store import RedisJobStore
from workers.training.loop import FAIL_AT

pytestmark = pytest.mark.timeout(3 * PATIENCE)
CODE = Path(__file__).parent.parent / "support"
JOB = "job_000000000010000000000"

LINEAR = {
    "policy": "linear",
    "options": {"start": 0.0},
    "window": 4,
    "snapshot_every": 2,
    "decide_every": 4,
    "patience": 1,
}


def job(
    world: int = 1,
    *,
    freeze: dict[str, Any] = LINEAR,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **training: Any,
) -> JobSpec:
    """24 steps on blobs, a checkpoint every 5, freezing events along the way."""
    values = {"epochs": 4, "batch_size": 32 // world, "checkpoint_every_steps": 5, "seed": 3} | training
    return JobSpec.model_validate(
        {
            "name": "blobs",
            "model": {"name": "code", "entry": "training_code.py:model", "options": model or {}},
            "data": {"name": "code", "entry": "training_code.py:blobs", **(data or {})},
            "training": values | {"optimizer": {"name": "adamw", "lr": 0.02, "weight_decay": 0.1}},
            "freeze": freeze,
            "resources": {"processes_per_worker": world, "device": "cpu"},
        }
    )


def attempt(home: Path, spec: JobSpec, number: int = 1) -> AttemptFiles:
    files = JobFiles(home, JOB).attempt(number)
    document = AttemptSpec(
        job_id=JOB,
        fence=number,
        attempt=number,
        spec=spec,
        home=str(home),
        worker_id="w",
        device="cpu",
        threads_per_rank=1,
    )
    write_atomic(files.spec, document.model_dump_json())
    return files


def run(files: AttemptFiles, world: int = 1, **env: str) -> list[int]:
    """Run all ranks; their exit codes."""
    _store, meeting = rendezvous()
    base = {k: v for k, v in os.environ.items() if not k.startswith("SMARTFRZ_")} | meeting
    base |= {"OMP_NUM_THREADS": "1", "SMARTFRZ_CODE_DIR": str(CODE)}
    base |= {"SMARTFRZ_COLLECTIVE_TIMEOUT_SECONDS": "30"} | env
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "workers.training.main", str(files.root)],
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
        )
        for rank in range(world)
    ]
    try:
        return [rank.wait(PATIENCE) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def result(files: AttemptFiles) -> Result:
    return Result.model_validate_json(files.result.read_text())


def flops_without_cache(found: dict[str, Any]) -> float:
    """What the plans cost: the forward cache is cold after a resume, proves its cut and fills once more."""
    return float(found["flops"]["this_run"]) + float(found["savings"]["estimated"]["flops_saved_by_cache"])


def report(files: AttemptFiles) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((files.artifacts / "report.json").read_text())
    return document


def weights(files: AttemptFiles) -> dict[str, torch.Tensor]:
    return load_file(files.artifacts / "model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], AttemptFiles]:
    """An undisturbed run on so many ranks, made once."""

    @cache
    def made(world: int) -> AttemptFiles:
        files = attempt(tmp_path_factory.mktemp(f"straight{world}"), job(world))
        assert run(files, world) == [0] * world
        return files

    return made


@pytest.mark.parametrize(
    ("world", "save_every", "kill_at"),
    [
        pytest.param(1, 5, 12, id="1 rank, saved between two freezes"),
        pytest.param(2, 4, 15, id="2 ranks, saved while a decision was under way"),
    ],
)
def test_a_run_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, straight: Callable[[int], AttemptFiles], world: int, save_every: int, kill_at: int
) -> None:
    whole = report(straight(world))
    freezes = sorted(whole["frozen_at"].values())
    saved_at = kill_at // save_every * save_every
    assert freezes[0] < saved_at <= kill_at < freezes[-1], "there must be freezes on both sides"

    spec = job(world, checkpoint_every_steps=save_every)
    first, second = attempt(tmp_path, spec, 1), attempt(tmp_path, spec, 2)
    codes = run(first, world, **{FAIL_AT: f"{world - 1}:{kill_at}"})
    assert codes[-1] == -signal.SIGKILL
    assert codes[:-1] == [4] * (world - 1)
    assert not first.result.exists(), "a rank that lost its peer must not name a cause"
    assert run(second, world) == [0] * world

    assert f"going on after step {saved_at}" in second.log(0).read_text()
    assert same(weights(straight(world)), weights(second))
    resumed = report(second)
    assert resumed["resumes"] == 1
    for key in ("accuracy", "loss", "frozen_at", "allreduce_bytes", "steps"):
        assert resumed[key] == whole[key], key
    assert flops_without_cache(resumed) == pytest.approx(flops_without_cache(whole), rel=1e-12)


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    files = attempt(tmp_path, job(2, gradient_accumulation=2, batch_size=8))
    assert run(files, 2) == [0, 0]
    document = report(files)
    assert document["status"] == "succeeded"
    assert document["test_samples"] == 203, "odd, so the ranks' shares differ: none twice, none left out"
    assert document["accuracy"] > 0.8
    assert document["steps"] == 24
    assert 0 < document["flops"]["ratio"] < 1
    full = sum(v.numel() for n, v in weights(files).items() if "running" not in n and "num_b" not in n) * 4
    assert document["allreduce_bytes"]["full_training"] == 24 * full, "one synchronisation a step, not a micro-batch"
    assert 0 < document["allreduce_bytes"]["measured"] < 24 * full
    assert document["wall_seconds"] > document["train_seconds"] > 0
    ended = result(files)
    assert ended.outcome == "succeeded"
    assert {"accuracy", "frozen_units", "units", "flops_ratio", "allreduce_bytes_ratio", "wall_seconds"} <= set(
        ended.summary
    )
    saved = document["flops"]["full_training"] - document["flops"]["this_run"]
    assert ended.summary["flops_saved"] == saved > 0
    lines = [json.loads(line) for line in files.metrics.read_text().splitlines()]
    assert {"loss", "learning_rate", "frozen_units", "step_seconds"} <= set(lines[0])
    assert lines[-1]["test_accuracy"] == document["accuracy"]


def test_a_pause_checkpoints_at_a_step_and_the_next_attempt_goes_on_from_it(
    tmp_path: Path, straight: Callable[[int], AttemptFiles]
) -> None:
    first = attempt(tmp_path, job(2), 1)
    write_atomic(first.control, Control(action="pause").model_dump_json())
    assert run(first, 2) == [0, 0]
    stopped = result(first)
    assert (stopped.outcome, stopped.action, stopped.step) == ("stopped", "pause", 1)
    assert [p.name for p in first.checkpoints.iterdir()] == ["step-00000001"]
    second = attempt(tmp_path, job(2), 2)
    assert run(second, 2) == [0, 0]
    assert same(weights(straight(2)), weights(second))
    assert not first.checkpoints.exists(), "superseded by those of the second attempt"
    assert len(list(second.checkpoints.iterdir())) == 2


def test_a_cancel_leaves_no_checkpoint(tmp_path: Path) -> None:
    files = attempt(tmp_path, job())
    write_atomic(files.control, Control(action="cancel").model_dump_json())
    assert run(files) == [0]
    assert result(files).action == "cancel"
    assert not files.checkpoints.exists()


def test_what_cannot_work_ends_with_a_reason_on_the_first_rank_that_meets_it(tmp_path: Path) -> None:
    files = attempt(tmp_path, job(2, freeze={"policy": "smartfrz", "window": 900}))
    assert run(files, 2) == [1, 1]
    ended = result(files)
    assert (ended.outcome, ended.reason) == ("failed", "config_invalid")
    assert "/freeze/window: a window of 900 snapshots" in (ended.message or "")
    assert "Traceback" in files.log(0).read_text()


STEADY = {"lr_schedule": {"name": "constant"}, "data": {"validation_ratio": 0.2}, "freeze": {"policy": "none"}}


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory) -> AttemptFiles:
    """Two ranks whose validation accuracy stops rising long before the planned steps."""
    spec = job(2, epochs=30, early_stop={"patience": 2}, **STEADY)
    files = attempt(tmp_path_factory.mktemp("early"), spec)
    assert run(files, 2) == [0, 0]
    return files


def validated(files: AttemptFiles) -> dict[int, float]:
    """Validation accuracy by step."""
    lines = [json.loads(line) for line in files.metrics.read_text().splitlines()]
    return {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}


def test_early_stop_ends_before_the_planned_steps_with_the_best_weights(
    tmp_path: Path, stopped_early: AttemptFiles
) -> None:
    document = report(stopped_early)
    assert document["stopped_early"]
    assert document["steps"] < document["planned_steps"]
    found = validated(stopped_early)
    assert document["weights_of_step"] == max(found, key=found.__getitem__) < document["steps"]
    assert not stopped_early.best.exists()

    until_then = attempt(tmp_path, job(2, epochs=30, max_steps=document["weights_of_step"], **STEADY))
    assert run(until_then, 2) == [0, 0]
    assert same(weights(until_then), weights(stopped_early))
    assert report(until_then)["accuracy"] == document["accuracy"]


def test_a_run_that_is_not_stopped_early_ends_with_its_best_weights_too(tmp_path: Path) -> None:
    files = attempt(tmp_path, job(epochs=4, early_stop={"patience": 4}, **STEADY))
    assert run(files) == [0]
    document, found = report(files), validated(files)
    assert not document["stopped_early"]
    assert max(found) == document["steps"], "the last epoch is looked at too"
    assert document["weights_of_step"] == max(found, key=found.__getitem__)


def test_a_resume_has_the_best_weights_of_before(tmp_path: Path, stopped_early: AttemptFiles) -> None:
    whole = report(stopped_early)
    best, kill_at = whole["weights_of_step"], whole["steps"] - 1
    assert best < kill_at // 2 * 2, "the checkpoint is of after the best evaluation"
    spec = job(2, epochs=30, early_stop={"patience": 2}, checkpoint_every_steps=2, **STEADY)
    first, second = attempt(tmp_path, spec, 1), attempt(tmp_path, spec, 2)
    assert run(first, 2, **{FAIL_AT: f"1:{kill_at}"})[1] == -signal.SIGKILL
    first.best.write_bytes(b"later than the checkpoint")
    assert run(second, 2) == [0, 0]
    assert not first.best.exists()
    assert report(second)["weights_of_step"] == best
    assert same(weights(stopped_early), weights(second))


def test_a_drain_during_the_last_evaluation_leaves_nothing_to_train(
    tmp_path: Path, stopped_early: AttemptFiles
) -> None:
    whole = report(stopped_early)
    first = JobFiles(tmp_path, JOB).attempt(1)
    drained = job(2, epochs=30, early_stop={"patience": 2}, model={"drain_at_test": str(first.control)}, **STEADY)
    attempt(tmp_path, drained, 1)
    assert run(first, 2) == [0, 0]
    stopped = result(first)
    assert (stopped.outcome, stopped.action, stopped.step) == ("stopped", "drain", whole["steps"])
    second = attempt(tmp_path, job(2, epochs=30, early_stop={"patience": 2}, **STEADY), 2)
    assert run(second, 2) == [0, 0]
    resumed = report(second)
    assert resumed["resumes"] == 1
    for key in ("accuracy", "loss", "steps", "stopped_early", "weights_of_step", "flops", "allreduce_bytes"):
        assert resumed[key] == whole[key], key
    assert same(weights(stopped_early), weights(second))


class Service:
    """A real store that holds one job, claimed once for each fence."""

    def __init__(self, place: StoreUrl, spec: JobSpec) -> None:
        self.env = {
            "SMARTFRZ_REDIS_URL": place.url,
            "SMARTFRZ_WINDOW_REDIS_URL": place.url,
            "SMARTFRZ_KEY_PREFIX": place.prefix,
        }
        self.store = RedisJobStore(place.url, place.prefix)
        self.store.create(JobRecord(id=JOB, spec=spec, created_at=1.0, queued_at=1.0, updated_at=1.0))

    def claim(self) -> None:
        self.store.update(JOB, lambda record, now: state.claim(record, now, owner="w", lease_seconds=60))

    def lose(self, fence: int) -> None:
        self.store.update(JOB, lambda record, now: state.lose(record, now, fence=fence, message="killed"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.store.events(JOB, limit=1000) if event.type == kind]


def test_the_store_hears_everything_and_a_resume_voids_what_came_after_the_checkpoint(
    tmp_path: Path, store_url: StoreUrl
) -> None:
    spec = job(2, checkpoint_every_steps=11)
    service = Service(store_url, spec)
    service.claim()
    first = attempt(tmp_path, spec, 1)
    run(first, 2, **service.env, **{FAIL_AT: "1:21"})
    service.lose(1)
    service.claim()
    second = attempt(tmp_path, spec, 2)
    assert run(second, 2, **service.env) == [0, 0]

    record = service.store.get(JOB)
    assert (record.status, record.progress.total_steps, record.progress.phase) == ("running", 24, "saving")
    assert (record.progress.step, record.progress.ratio) == (24, 1.0)
    decisions = service.store.decisions(JOB)
    valid = {d["step"]: d["frozen"] for d in decisions if not d["superseded"]}
    assert set(valid) == set(report(second)["frozen_at"].values())
    void = [d for d in decisions if d["superseded"]]
    assert [d["step"] for d in void if d["step"] < 21] == [13], "decided before the kill, after the checkpoint"
    assert all(d["fence"] == 1 for d in void)
    assert [e["step"] for e in service.events("training.started")] == [0, 11]
    assert service.events("evaluation")[-1]["accuracy"] == report(second)["accuracy"]
    frozen = {e["unit"] for e in service.events("unit.frozen")}
    assert frozen == set(report(second)["frozen_at"])
    status = service.store.get_freeze(JOB)
    assert status is not None
    assert (status["job_id"], status["status"], status["attempt"], status["step"]) == (JOB, "succeeded", 2, 24)
    assert sum(unit["state"] == "frozen" for unit in status["units"]) == report(second)["frozen_units"]


def test_an_attempt_that_lost_the_job_stops_without_a_result(tmp_path: Path, store_url: StoreUrl) -> None:
    spec = job(epochs=10_000)
    service = Service(store_url, spec)
    service.claim()
    service.lose(1)
    service.claim()
    files = attempt(tmp_path, spec, 1)
    assert run(files, **service.env) == [3]
    assert not files.result.exists()
    assert service.events("training.started") == []


def test_a_store_that_is_away_stops_nothing(tmp_path: Path) -> None:
    files = attempt(tmp_path, job())
    assert run(files, SMARTFRZ_REDIS_URL="redis://127.0.0.1:1/0") == [0]
    assert result(files).outcome == "succeeded"
    assert "training goes on" in files.log(0).read_text()
