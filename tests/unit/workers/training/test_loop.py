"""The loop on one rank: orders that come during an evaluation, checkpoints that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.workers.training.test_run import made
from workers.jobs.layout import Control, write_atomic
from workers.training.loop import Stopped, between_batches, train
from workers.training.resume import restore
from workers.training.telling import Teller


def test_an_order_is_met_within_a_few_batches_though_the_first_took_no_time(tmp_path: Path) -> None:
    run = made(tmp_path)
    look = between_batches(run, Teller(None))
    look(1, 1000)
    write_atomic(run.files.control, Control(action="cancel").model_dump_json())
    look(2, 1000)
    with pytest.raises(Stopped, match="cancel"):
        look(3, 1000)
    run.close()


class Told(Teller):
    """Notes what became of checkpoints, and clears the way when the second one failed."""

    def __init__(self, blocker: Path) -> None:
        super().__init__(None)
        self.blocker, self.saved, self.failed = blocker, list[int](), list[tuple[int, str]]()

    def checkpoint(self, step: int) -> None:
        self.saved.append(step)

    def checkpoint_failed(self, step: int, message: str) -> None:
        self.failed.append((step, message))
        if len(self.failed) == 2:
            self.blocker.unlink()


def test_a_checkpoint_that_cannot_be_written_is_tried_again_at_the_next_interval(tmp_path: Path) -> None:
    run = made(tmp_path, {"checkpoint_every_steps": 4})
    blocker = run.files.checkpoints
    blocker.write_text("a file where the folder should be")
    told, position = Told(blocker), restore(run)
    train(run, position, told)
    assert (position.step, [step for step, _ in told.failed], told.saved) == (20, [4, 8], [12, 16])
    assert told.failed[0][1].startswith("Not a directory at ")
    run.close()
