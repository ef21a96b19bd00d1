"""Orders from outside, taken by all ranks at the same step.

Rank 0 looks at the control file about once a second and broadcasts what it found, together with the step of the next
look: between two looks the ranks exchange nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workers.jobs.layout import Control
from workers.training.commands import Taken
from workers.training.process_group import Ranks

Action = Literal["cancel", "pause", "drain"]
_CODES: dict[Action | None, int] = {None: 0, "cancel": 1, "pause": 2, "drain": 3}
_ACTIONS = {code: action for action, code in _CODES.items()}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What all ranks do after the current step."""

    action: Action | None = None
    checkpoint: bool = False
    commands: tuple[Taken, ...] = ()
    """Freeze commands to apply first."""


def read_control(path: Path) -> Action | None:
    """The runner's order, or ``None``. A file that cannot be read is none: it may be there the next time."""
    try:
        return Control.model_validate_json(path.read_text(encoding="utf-8")).action
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("control file cannot be read: %s", error)
        return None


def next_look(step: int, elapsed: float, steps: int, every_seconds: float) -> int:
    """The step of the next look: as many steps on as fit into ``every_seconds`` at the pace of the last ``steps``."""
    pace = elapsed / max(1, steps)
    return step + (max(1, min(1_000_000, int(every_seconds / pace))) if pace > 0 else 1)


class ControlPoint:
    """Called after every step on every rank."""

    def __init__(
        self,
        path: Path,
        ranks: Ranks,
        *,
        start_step: int,
        checkpoint_seconds: float | None,
        every_seconds: float = 1.0,
        max_growth: float = math.inf,
        take: Callable[[int], Sequence[Taken]] = lambda step: (),  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        checkpoint_seconds: time between checkpoints; ``None`` when they are counted in steps.
        max_growth: the way to the next look is at most so many times as long as the last one: where the first steps
            may be much faster than what follows, they must not put the next look off for minutes.
        take: called on rank 0 with the step of a look: new freeze commands.
        """
        self._take = take
        self._path, self._ranks, self._clock = path, ranks, clock
        self._checkpoint_seconds, self._every, self._max_growth = checkpoint_seconds, every_seconds, max_growth
        self._looked_at_step = start_step
        self._looked_at = self._saved_at = clock()
        self.next_step = start_step + 1

    def due(self, step: int) -> bool:
        """Whether ``after`` exchanges a message at this step; the same on all ranks."""
        return step >= self.next_step

    def after(self, step: int) -> Order:
        """The order for all ranks after ``step`` completed steps."""
        if not self.due(step):
            return Order()
        message, taken = [0, 0, 0, 0], tuple[Taken, ...]()
        if self._ranks.leads:
            now = self._clock()
            save = self._checkpoint_seconds is not None and now - self._saved_at >= self._checkpoint_seconds
            steps = step - self._looked_at_step
            upcoming = next_look(step, now - self._looked_at, steps, self._every)
            if self._max_growth < math.inf:
                upcoming = min(upcoming, step + int(self._max_growth * max(1, steps)))
            taken = tuple(self._take(step))
            message = [_CODES[read_control(self._path)], int(save), upcoming, len(taken)]
            self._looked_at, self._looked_at_step = now, step
        code, save_now, self.next_step, commands = self._ranks.broadcast(message)
        if commands:
            taken = self._ranks.broadcast_object(taken)
        return Order(_ACTIONS[code], bool(save_now), taken)

    def saved(self) -> None:
        """A checkpoint was written: its interval begins anew."""
        self._saved_at = self._clock()
