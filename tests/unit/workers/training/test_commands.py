"""Freeze commands in the trainer: journal, order, refusal, replay. A store that answers, and one rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.errors import UnitError
from tests.unit.workers.training.test_run import made
from workers.jobs.layout import JobFiles
from workers.jobs.record import Command
from workers.training.commands import Commands, Taken, read_journals, write_journal
from workers.training.resume import Position
from workers.training.run import Run
from workers.training.telling import Teller


class Freezing:
    """In place of the freezer's commands: keeps what it was told. ``nope`` is no unit."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, action: str) -> Any:
        def call(units: Any) -> None:
            if units and "nope" in units:
                raise UnitError("no unit 'nope'")
            self.told.append((action, units))

        return call


class Outside(Teller):
    """What is ordered, and what is heard of it."""

    def __init__(self) -> None:
        super().__init__(None)
        self.waiting: list[Command] = []
        self.settled: list[tuple[int, int, str | None]] = []

    def order(self, action: Any, *units: str) -> None:
        seq = len(self.waiting) + 1
        self.waiting.append(Command(seq=seq, action=action, units=units or None, at=1.0))

    def commands(self, *, after: int) -> list[Command]:
        return [command for command in self.waiting if command.seq > after]

    def command(self, seq: int, step: int, error: str | None) -> None:
        self.settled.append((seq, step, error))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = made(tmp_path)
    real, run.freezer = run.freezer, Freezing()  # type: ignore[assignment]
    yield run
    run.freezer = real
    run.close()


def step(commands: Commands, position: Position, number: int) -> None:
    position.step = number
    commands.obey(commands.take(number))


def test_a_journal_survives_half_a_line(tmp_path: Path) -> None:
    files = [JobFiles(tmp_path, "j").attempt(fence) for fence in (1, 2, 3)]
    for one in files[:2]:
        one.root.mkdir(parents=True)
    path = files[0].commands
    write_journal(path, [Taken(seq=1, step=4, action="thaw"), Taken(seq=2, step=4, action="pin", units=("a",))])
    with path.open("a") as stream:
        stream.write('\n{"seq": 3, "st')
    write_journal(path, [Taken(seq=3, step=9, action="freeze", units=("b",))])
    write_journal(files[1].commands, [Taken(seq=3, step=7, action="freeze", units=("b",))])
    assert [(t.seq, t.step) for t in read_journals(files, after=1)] == [(2, 4), (3, 7)]
    assert read_journals(files, after=3) == []


def test_commands_are_applied_in_order_once(run: Run) -> None:
    outside, position = Outside(), Position()
    outside.order("freeze", "a", "b")
    commands = Commands(run, position, outside)
    commands.start()
    outside.order("thaw")
    outside.order("pin", "a")
    step(commands, position, 3)
    step(commands, position, 4)
    told = [("freeze", ("a", "b")), ("thaw", None), ("pin", ("a",))]
    assert run.freezer.told == told  # type: ignore[attr-defined]
    assert outside.settled == [(1, 0, None), (2, 3, None), (3, 3, None)]
    assert position.commands == 3


def test_a_refused_command_stops_nothing(run: Run) -> None:
    outside, position = Outside(), Position()
    outside.order("freeze", "nope")
    outside.order("unpin", "a")
    commands = Commands(run, position, outside)
    step(commands, position, 5)
    assert outside.settled == [(1, 5, "no unit 'nope'"), (2, 5, None)]
    assert position.commands == 2


def test_what_cannot_be_written_down_waits(run: Run) -> None:
    outside, position = Outside(), Position()
    outside.order("thaw")
    commands = Commands(run, position, outside)
    run.files.commands.mkdir(parents=True)  # no file can be there
    step(commands, position, 1)
    assert outside.settled == []
    run.files.commands.rmdir()
    step(commands, position, 2)
    assert outside.settled == [(1, 2, None)]


def test_a_resumed_run_applies_them_again_at_the_same_step_and_new_ones_after(run: Run) -> None:
    outside, position = Outside(), Position()
    first = Commands(run, position, outside)
    for number, action in ((4, "freeze"), (7, "pin"), (7, "thaw")):
        outside.order(action, "a")
        step(first, position, number)
    before = list(outside.settled)
    outside.order("unpin", "a")  # nobody took it
    outside.settled.clear()
    run.freezer.told.clear()  # type: ignore[attr-defined]
    again = Position(step=4, commands=1)  # the checkpoint of step 4
    second = Commands(run, again, outside)
    second.start()
    for number in range(5, 9):
        step(second, again, number)
    assert outside.settled == [*before[1:], (4, 7, None)]
    assert [action for action, _ in run.freezer.told] == ["pin", "thaw", "unpin"]  # type: ignore[attr-defined]
