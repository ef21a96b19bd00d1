"""Freeze commands through a real store: killed and resumed, a run ends with the bits of one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import StoreUrl
from tests.e2e.test_train_attempt import JOB, Service, attempt, job, run, weights
from tests.support.equality import same
from workers.jobs.layout import JobFiles
from workers.training.commands import Taken, write_journal
from workers.training.loop import FAIL_AT


def units(service: Service) -> list[str]:
    return [unit["name"] for unit in (service.store.get_freeze(JOB) or {})["units"]]


@pytest.mark.parametrize("world", [1, 2])
def test_a_command_is_applied_again_at_its_step(tmp_path: Path, store_url: StoreUrl, world: int) -> None:
    spec = job(world, freeze={"policy": "none"}, checkpoint_every_steps=5)
    service = Service(store_url, spec)
    plain = attempt(tmp_path / "plain", spec)
    assert run(plain, world) == [0] * world
    first_unit = "0"  # of the model in training_code.py
    service.store.add_command(JOB, "freeze", [first_unit])
    service.store.add_command(JOB, "freeze", ["nope"])
    # When rank 0 looks depends on the clock; a journal of an earlier attempt fixes the steps.
    steps = [
        Taken(seq=1, step=7, action="freeze", units=(first_unit,)),
        Taken(seq=2, step=9, action="freeze", units=("nope",)),
    ]
    straight = attempt(tmp_path / "straight", spec)
    write_journal(straight.commands, steps)
    assert run(straight, world) == [0] * world
    assert not same(weights(plain), weights(straight)), "the command did something"

    service.claim()
    files = attempt(tmp_path / "killed", spec)
    write_journal(files.commands, steps)
    run(files, world, **service.env, **{FAIL_AT: f"{world - 1}:8"})
    service.lose(1)
    service.claim()
    second = attempt(tmp_path / "killed", spec, 2)
    assert run(second, world, **service.env) == [0] * world
    assert same(weights(straight), weights(second))
    applied, refused = service.store.commands(JOB)
    assert (applied.state, applied.applied_at_step) == ("applied", 7)
    assert (refused.state, refused.applied_at_step) == ("refused", 9)
    assert "nope" in (refused.error or "")
    assert len(service.events("command.applied")) == 1, "the replay is no news"
    frozen = [event for event in service.events("unit.frozen") if event["cause"] == "command"]
    assert {event["unit"] for event in frozen} == {first_unit}
    assert not any(attempt.caches.exists() for attempt in JobFiles(tmp_path / "killed", JOB).attempts())
    assert torch.is_tensor(next(iter(weights(second).values())))


def test_what_was_ordered_while_the_job_waited_comes_before_the_first_step(tmp_path: Path, store_url: StoreUrl) -> None:
    spec = job(1, freeze={"policy": "none"})
    service = Service(store_url, spec)
    service.store.add_command(JOB, "freeze", ["0"])
    service.claim()
    assert run(attempt(tmp_path, spec), 1, **service.env) == [0]
    (command,) = service.store.commands(JOB)
    assert (command.state, command.applied_at_step) == ("applied", 0)
    assert units(service)
