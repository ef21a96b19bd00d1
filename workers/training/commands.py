"""Freeze commands: taken by rank 0, applied by all ranks after the same step, and again at that step by a resumed run.

Rank 0 writes a command and its step into the attempt's journal, on disk, before any rank applies it. So a run that is
killed and resumed from an earlier checkpoint applies it once more at exactly that step. The store learns the outcome
afterwards, in the background: it may be away for as long as it likes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from freezer.errors import ConfigError, PlanError, UnitError
from workers.jobs.layout import AttemptFiles, Document
from workers.jobs.record import CommandAction
from workers.training.resume import Position
from workers.training.run import Run
from workers.training.telling import Teller

_log = logging.getLogger(__name__)


class Taken(Document):
    """A command and the step after which all ranks apply it: one line of the journal."""

    seq: int
    step: int
    action: CommandAction
    units: tuple[str, ...] | None = None


def write_journal(path: Path, commands: Sequence[Taken]) -> None:
    """Append, durably. Raises OSError; what was written of it then counts, unless a later line replaces it."""
    # A line feed first: what a full disk cut short must not swallow the next line.
    text = "".join(f"\n{command.model_dump_json()}\n" for command in commands)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def read_journals(attempts: Iterable[AttemptFiles], *, after: int) -> list[Taken]:
    """Commands with ``seq`` > after, in order, of all attempts, given oldest first: the last line of a seq holds."""
    found: dict[int, Taken] = {}
    for attempt in attempts:
        try:
            lines = attempt.commands.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in filter(None, lines):
            try:
                taken = Taken.model_validate_json(line)
            except ValidationError:
                _log.warning("%s: half a line, of a command that was not applied", attempt.commands)
                continue
            found[taken.seq] = taken
    return [taken for seq, taken in sorted(found.items()) if seq > after]


class Commands:
    """One for each rank; all ranks call :meth:`start` and :meth:`obey` alike."""

    def __init__(self, run: Run, position: Position, teller: Teller) -> None:
        self._run, self._position, self._teller = run, position, teller
        replay: list[Taken] | None = None
        if run.ranks.leads:
            replay = read_journals(run.job_files.attempts(), after=position.commands)
        self._replay: deque[Taken] = deque(run.ranks.broadcast_object(replay) or ())

    def start(self) -> None:
        """Before the first step: what was ordered while the job waited."""
        taken: list[Taken] | None = None
        if self._run.ranks.leads:
            self._teller.await_commands()
            taken = self.take(self._position.step)
        self.obey(self._run.ranks.broadcast_object(taken) or ())

    def take(self, step: int) -> list[Taken]:
        """On rank 0: new commands, to be applied after ``step`` steps. None before the old ones have had their turn."""
        if self._replay and self._replay[-1].step > step:
            return []
        last = max(self._position.commands, self._replay[-1].seq if self._replay else 0)
        waiting = self._teller.commands(after=last)
        taken = [Taken(seq=one.seq, step=step, action=one.action, units=one.units) for one in waiting]
        if not taken:
            return []
        try:
            write_journal(self._run.files.commands, taken)
        except OSError as error:
            _log.warning("commands wait until they can be written down: %s", error)
            return []
        return taken

    def obey(self, taken: Iterable[Taken]) -> None:
        """On every rank after a step: apply what an earlier attempt applied here, then what was just taken."""
        step = self._position.step
        while self._replay and self._replay[0].step <= step:
            self._apply(self._replay.popleft(), step)
        for command in taken:
            self._apply(command, step)

    def _apply(self, command: Taken, step: int) -> None:
        error: str | None = None
        try:
            self._call(command)
        except (ConfigError, PlanError, UnitError) as refused:  # before anything changed, on all ranks alike
            error = str(refused) or type(refused).__name__
            _log.info("command %d (%s) refused after step %d: %s", command.seq, command.action, step, error)
        self._position.commands = command.seq
        self._teller.freeze_events(self._run, step)
        self._teller.command(command.seq, step, error)

    def _call(self, command: Taken) -> None:
        freezer, units = self._run.freezer, command.units
        if command.action == "thaw":
            freezer.thaw(units)
            return
        assert units is not None, "the API lets only thaw do without"
        {"freeze": freezer.freeze, "pin": freezer.pin, "unpin": freezer.unpin}[command.action](units)
