"""Fine-tuned again: a job that starts from the weights of another, on the real ranks."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.e2e.test_train_attempt import job, report, result, run, weights
from workers.jobs.layout import AttemptFiles, AttemptSpec, JobFiles, write_atomic
from workers.jobs.spec import JobSpec

FIRST, SECOND = "job_000000000010000000001", "job_000000000010000000002"


def attempt(home: Path, job_id: str, spec: JobSpec) -> AttemptFiles:
    files = JobFiles(home, job_id).attempt(1)
    document = AttemptSpec(
        job_id=job_id, fence=1, attempt=1, spec=spec, home=str(home), worker_id="w", device="cpu", threads_per_rank=1
    )
    write_atomic(files.spec, document.model_dump_json())
    return files


def again(data: dict[str, object]) -> JobSpec:
    """One step at a rate that changes next to nothing, from the weights of the first job."""
    spec = job(freeze={"policy": "none"}, data=data, max_steps=1)
    model = spec.model.model_copy(update={"init_from": FIRST})
    optimizer = spec.training.optimizer.model_copy(update={"lr": 1e-9, "weight_decay": 0.0})
    training = spec.training.model_copy(update={"optimizer": optimizer})
    return spec.model_copy(update={"model": model, "training": training})


def test_a_second_job_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    first = attempt(tmp_path, FIRST, job(freeze={"policy": "none"}))
    assert run(first) == [0]
    assert report(first)["init_from"] is None

    second = attempt(tmp_path, SECOND, again({"options": {"classes": 4}}))
    assert run(second) == [0], second.log(0).read_text()
    start, end = weights(first), weights(second)
    head = ["9.weight", "9.bias"]  # of the model in training_code.py
    assert report(second)["init_from"] == {"job_id": FIRST, "tensors": len(start) - 2, "fresh": head}
    moved = {n for n in start if n not in head and not torch.allclose(start[n].float(), end[n].float(), atol=1e-6)}
    assert {name.partition(".")[0] for name in moved} <= {"1"}, "only the statistics of the norm moved"
    assert end["9.weight"].shape == (4, 24)

    first.weights.unlink()
    second.result.unlink()
    assert run(second) == [1]
    gone = result(second)
    assert (gone.outcome, gone.reason) == ("failed", "config_invalid")
    assert FIRST in (gone.message or "")
