"""From a run to a checkpoint and back."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.jobs.layout import AttemptFiles
from workers.training import checkpoint
from workers.training.run import Run

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the loop stands. Everything here survives a restart."""

    step: int = 0
    """Completed optimizer steps."""
    best: float | None = None
    """Best validation accuracy so far (early stop)."""
    best_step: int | None = None
    """Steps before it; its weights are kept (:mod:`workers.training.best`)."""
    waited: int = 0
    """Evaluations since then."""
    evaluated_at: int = 0
    """Steps at the last evaluation within training."""
    stopped_early: bool = False
    """Training is over, though steps are left: from here on there is nothing to do but to evaluate and write."""
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    resumes: int = 0
    commands: int = 0
    """Seq of the last freeze command taken; later ones that an earlier attempt took are applied again."""

    def improved(self, accuracy: float, min_delta: float) -> bool:
        """Note a validation accuracy; whether it is better than the best by more than ``min_delta``."""
        if self.best is None or accuracy > self.best + min_delta:
            self.best, self.waited = accuracy, 0
            return True
        self.waited += 1
        return False


def collect(run: Run, position: Position) -> checkpoint.Checkpoint | None:
    """What a checkpoint holds, on rank 0; called by all ranks after the same step, which talk to each other here."""
    run.ranks.same_buffers(run.model)
    run.freezer.rewrap()
    freezer = run.freezer.state_dict()  # on every rank: it may talk to the others
    rng = run.ranks.gather(checkpoint.rng_state(run.ranks.device))
    if rng is None:
        return None
    training: dict[str, Any] = {
        "optimizer": run.optimizer.state_dict(),
        "freezer": freezer,
        "loop": asdict(position),
        "total_steps": run.total_steps,
    }
    best = run.files.best if position.best_step is not None else None
    model = checkpoint.weights(run.model)
    return checkpoint.Checkpoint(step=position.step, model=model, training=training, rng=rng, best=best)


def write(run: Run, made: checkpoint.Checkpoint) -> None:
    """Write it; on rank 0 alone, without a word to the others.

    Raises:
        OSError: it could not be written; nothing of it is left, and earlier checkpoints are untouched.
    """
    checkpoint.save(run.files.checkpoints, made, earlier=[attempt.checkpoints for attempt in _earlier(run)])


def _earlier(run: Run) -> list[AttemptFiles]:
    """The attempts before this one."""
    return [attempt for attempt in run.job_files.attempts() if attempt.root.name < run.files.root.name]


def restore(run: Run) -> Position:
    """Go on from the newest valid checkpoint of any attempt of this job, or start at step 0. Called by all ranks."""
    path: str | None = None
    if run.ranks.leads:
        found = checkpoint.newest(attempt.checkpoints for attempt in run.job_files.attempts())
        path = str(found) if found is not None else None
        if found is not None and (found / checkpoint.BEST).is_file():  # before the others go on
            shutil.copyfile(found / checkpoint.BEST, run.files.best)
        for attempt in _earlier(run):
            attempt.best.unlink(missing_ok=True)  # its checkpoints hold what they need of it
    path = run.ranks.broadcast_object(path)
    state = checkpoint.load(Path(path)) if path is not None else None
    if state is not None and (state.world != run.ranks.world or state.training["total_steps"] != run.total_steps):
        _log.warning(
            "starting over: the checkpoint of step %d is of %d ranks and %d steps, this run has %d ranks and %d steps",
            state.step,
            state.world,
            state.training["total_steps"],
            run.ranks.world,
            run.total_steps,
        )
        state = None
    if state is None:
        run.prepare_freezer()
        run.seed_rank()
        return Position()
    run.model.load_state_dict(state.model)
    run.optimizer.load_state_dict(state.training["optimizer"])
    run.freezer.load_state_dict(state.training["freezer"])
    run.prepare_freezer()
    position = Position(**state.training["loop"])
    position.resumes += 1
    checkpoint.set_rng_state(state.rng[run.ranks.rank], run.ranks.device)
    _log.info("going on after step %d from %s", state.step, path)
    return position
