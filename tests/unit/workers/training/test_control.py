from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from workers.jobs.layout import Control, write_atomic
from workers.training.control import ControlPoint, Order, next_look, read_control
from workers.training.process_group import Ranks

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def point(path: Path, clock: Clock, checkpoint_seconds: float | None = None) -> ControlPoint:
    return ControlPoint(path, ALONE, start_step=0, checkpoint_seconds=checkpoint_seconds, clock=clock)


@pytest.mark.parametrize("action", ["cancel", "pause", "drain"])
def test_an_order_is_read(tmp_path: Path, action: str) -> None:
    write_atomic(tmp_path / "control.json", Control(action=action).model_dump_json())  # type: ignore[arg-type]
    assert read_control(tmp_path / "control.json") == action
    assert point(tmp_path / "control.json", Clock()).after(1) == Order(action, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", '{"action": "explode"}'])
def test_a_file_that_makes_no_sense_stops_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "c").write_text(text)
    assert read_control(tmp_path / "c") is None
    assert read_control(tmp_path / "absent") is None


def test_looks_come_about_once_a_second(tmp_path: Path) -> None:
    clock = Clock()
    control = point(tmp_path / "c", clock)
    looks = []
    for step in range(1, 201):
        clock.now += 0.05
        if control.due(step):
            looks.append(step)
        control.after(step)
    assert looks[0] == 1
    gaps = [b - a for a, b in pairwise(looks)]
    assert set(gaps) <= {19, 20, 21}


@pytest.mark.parametrize(
    ("elapsed", "steps", "expected"), [(3.0, 1, 8), (0.5, 1, 9), (0.1, 1, 17), (0.0, 0, 8), (1.0, 100, 107)]
)
def test_next_look(elapsed: float, steps: int, expected: int) -> None:
    assert next_look(7, elapsed, steps, 1.0) == expected


def test_a_fast_first_step_does_not_put_the_next_look_off_where_growth_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    control = ControlPoint(tmp_path / "c", ALONE, start_step=0, checkpoint_seconds=None, max_growth=2.0, clock=clock)
    looks = []
    for step in range(1, 101):
        clock.now += 0.001 if step == 1 else 0.1
        if control.due(step):
            looks.append(clock.now)
        control.after(step)
    assert max(b - a for a, b in pairwise(looks)) < 2.0
    assert len(looks) < 20


def test_checkpoints_by_time(tmp_path: Path) -> None:
    clock = Clock()
    control = point(tmp_path / "c", clock, checkpoint_seconds=5.0)
    saves = []
    for step in range(1, 14):
        clock.now += 1.0
        if control.after(step).checkpoint:
            saves.append(step)
            control.saved()
    assert saves == [5, 10]
