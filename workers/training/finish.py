"""The end of a run: the score on the whole test split, the trained weights, the report."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from workers.jobs.layout import Result, write_atomic
from workers.training import best, checkpoint
from workers.training.evaluate import Score
from workers.training.loop import scored
from workers.training.machine import machine
from workers.training.resume import Position
from workers.training.run import Run
from workers.training.storage import save_tensors
from workers.training.telling import Teller

HOW_FLOPS = "counted by torch FLOP counter on one batch, multiplied by steps"
HOW_BYTES = (
    "measured: gradient bytes that one rank handed to all-reduce, counted in the communication hook; "
    "full_training: bytes of all parameters, multiplied by the same synchronisations"
)


def finish(run: Run, position: Position, teller: Teller, *, began: float) -> Result:
    """Evaluate, and leave ``artifacts/model.safetensors`` and ``artifacts/report.json``. Called by all ranks.

    Args:
        began: ``perf_counter`` at the start of the process.

    Raises:
        Stopped: after an order during the evaluation, on all ranks. The model may have the weights of the best
            evaluation then: a resumed attempt does not train on, but comes back here.
        OSError: on rank 0, what is to be left could not be written.
    """
    weights_of = best.take(run, position)
    score = scored(run, position, "test", teller)
    if not run.ranks.leads:
        return Result(outcome="succeeded", rank=run.ranks.rank, step=position.step)
    teller.saving()
    folder = run.files.artifacts
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(run, folder / "model.safetensors")
    run.files.best.unlink(missing_ok=True)
    document = report(run, position, score, weights_of=weights_of, wall_seconds=time.perf_counter() - began)
    write_atomic(folder / "report.json", json.dumps(document, indent=1))
    teller.finished(run, position.step)
    return Result(outcome="succeeded", step=position.step, summary=summary(document))


def report(run: Run, position: Position, score: Score, *, weights_of: int, wall_seconds: float) -> dict[str, Any]:
    """Everything that was measured; ratios are this run over full training of the same length, null where undefined.

    After a resume, ``wall_seconds`` is of the last attempt alone. The other figures are of the steps that led here,
    each counted once, whichever attempt did it; the freezer's overhead holds the preparation of each attempt.

    Args:
        weights_of: steps after which the model was as it is kept and scored: fewer than all of them where early
            stopping found it to be better then.
    """
    freeze = run.freezer.report()
    savings = freeze["savings"]
    measured, estimated = savings["measured"], savings["estimated"]
    return {
        "status": "succeeded",
        "job_id": run.attempt.job_id,
        "name": run.spec.name,
        "model": run.spec.model.name,
        "data": run.spec.data.name,
        "init_from": None if run.inherited is None else run.inherited.to_dict(),
        "accuracy": score.accuracy,
        "loss": score.loss,
        "test_from": run.spec.data.test_from,
        "test_samples": score.samples,
        "train_samples": len(run.data.train),
        "classes": run.data.num_classes,
        "steps": position.step,
        "planned_steps": run.total_steps,
        "epochs": position.step / run.plan.steps_per_epoch,
        "stopped_early": position.stopped_early,
        "weights_of_step": weights_of,
        "attempt": run.attempt.attempt,
        "resumes": position.resumes,
        "wall_seconds": wall_seconds,
        "train_seconds": position.train_seconds,
        "evaluate_seconds": position.evaluate_seconds,
        "units": freeze["units"],
        "frozen_units": len(freeze["frozen_units"]),
        "frozen_at": frozen_at(freeze["history"]),
        "flops": {
            "this_run": estimated["flops_this_run"],
            "full_training": estimated["flops_full_training"],
            "ratio": estimated["flops_ratio"],
            "how": HOW_FLOPS,
        },
        "allreduce_bytes": {
            "measured": measured["allreduce_bytes"],
            "full_training": estimated["allreduce_bytes_full_training"],
            "ratio": estimated["allreduce_bytes_ratio"],
            "synchronisations": measured["gradient_syncs"],
            "how": HOW_BYTES,
        },
        "savings": savings,
        "cache": freeze.get("cache"),
        "freezer": {
            "overhead_seconds": measured["overhead_seconds"],
            "overhead_seconds_by_kind": measured["overhead_seconds_by_kind"],
            "decisions": len(freeze["history"]),
            "history": freeze["history"],
        },
        "policy": freeze["policy"],
        "freeze_config": run.spec.freeze_config().to_dict(),
        "seed": run.training.seed,
        "world_size": run.ranks.world,
        "precision": "bf16" if run.bf16 else "fp32",
        "machine": machine(run.ranks.device),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "spec": run.spec.model_dump(mode="json"),
    }


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What the job's record keeps of the report."""
    return {
        "accuracy": document["accuracy"],
        "loss": document["loss"],
        "test_samples": document["test_samples"],
        "steps": document["steps"],
        "frozen_units": document["frozen_units"],
        "units": document["units"],
        "flops_ratio": document["flops"]["ratio"],
        "flops_saved": document["flops"]["full_training"] - document["flops"]["this_run"],
        "allreduce_bytes_ratio": document["allreduce_bytes"]["ratio"],
        "wall_seconds": document["wall_seconds"],
    }


def frozen_at(history: list[dict[str, Any]]) -> dict[str, int]:
    """Step at which each unit that is frozen at the end was frozen last."""
    at: dict[str, int] = {}
    for entry in history:
        for name in entry["thawed"]:
            at.pop(name, None)
        at.update(dict.fromkeys(entry["frozen"], entry["step"]))
    return at


def _save_weights(run: Run, path: Path) -> None:
    """Written beside and renamed: an artifact is whole or absent."""
    beside = path.with_name(f".{path.name}")
    save_tensors(checkpoint.weights(run.model), beside)
    os.replace(beside, path)
