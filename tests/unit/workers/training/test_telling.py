from __future__ import annotations

import json
from pathlib import Path

from tests.unit.workers.training.test_run import made
from workers.training.loop import Pace, progress
from workers.training.reporter import Reporter
from workers.training.resume import Position
from workers.training.telling import Teller


def test_a_resumed_run_tells_what_is_frozen_before_anything_else_freezes(tmp_path: Path) -> None:
    freeze = {"policy": "static", "options": {"first": 2}, "window": 2}
    before, run = made(tmp_path, freeze=freeze), made(tmp_path, freeze=freeze)
    before.prepare_freezer()
    run.freezer.load_state_dict(before.freezer.state_dict())
    run.prepare_freezer()
    assert not run.events, "nothing happened yet in this attempt"
    metrics = tmp_path / "metrics.jsonl"
    reporter = Reporter(None, job_id="j", fence=2, metrics=metrics)
    teller = Teller(reporter)
    teller.started(run, 0)
    pace = Pace(0)
    pace.add(0.5)
    loss = pace.mean_loss()
    teller.step(run, progress(run, Position(), pace, loss, 0.1), step_seconds=0.1)
    reporter.close()
    assert json.loads(metrics.read_text())["frozen_units"] == 2
    for one in (before, run):
        one.close()
