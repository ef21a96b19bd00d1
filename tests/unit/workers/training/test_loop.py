"""Orders that come during an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.workers.training.test_run import made
from workers.jobs.layout import Control, write_atomic
from workers.training.loop import Stopped, between_batches
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
