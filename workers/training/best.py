"""With early stopping, a run ends with the weights of its best evaluation, not with those that came after it.

They wait in a file of the attempt, and in each of its checkpoints, so that a resume has them too.
"""

from __future__ import annotations

import os

from safetensors.torch import load_file

from workers.training import checkpoint
from workers.training.resume import Position
from workers.training.run import Run
from workers.training.storage import save_tensors


def keep(run: Run, position: Position) -> None:
    """Note that no evaluation was better than the one just made. Called by all ranks; writes on rank 0.

    Raises:
        OSError: the weights could not be written; those of before are untouched.
    """
    position.best_step = position.step
    if run.ranks.leads:
        beside = run.files.best.with_name(f".{run.files.best.name}")
        save_tensors(checkpoint.weights(run.model), beside)
        os.replace(beside, run.files.best)


def take(run: Run, position: Position) -> int:
    """Load the weights of the best evaluation, on all ranks. Returns after how many steps they were."""
    if position.best_step is None or position.best_step == position.step:
        return position.step
    run.model.load_state_dict(load_file(run.files.best))  # evaluations since have let every rank meet the writer
    return position.best_step
