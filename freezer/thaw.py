"""When to thaw everything: the learning rate jumps, or validation gets worse. Pure: same numbers in, same word out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from freezer.errors import ConfigError

RateCause = Literal["lr_drop", "lr_restart"]

_SUDDEN = 4.0
"""A change that goes on in the last one's direction is a jump only if it is so many times as large."""
_TURN = 1.4
"""A rise that follows a fall is a jump only if it is so many times as large: a smooth wave turns at its bottom."""


class RateWatch:
    """Sees the learning rate after each step and tells drops and restarts from schedules that move smoothly.

    A drop is a fall by the factor ``drop`` in one step (Wang et al., EuroSys 2023); a restart is a rise by the factor
    ``restart`` in one step once the rate has been higher. At its end a smooth decay (cosine, linear, polynomial, by
    step or by epoch) falls by any factor too, so a change counts only if it is sudden: the first of all, or after
    another jump, or a turn down, or much larger than the last change. A fall to 0 never counts: nothing trains there.

    Args:
        drop: factor above 1, or ``None``: never.
        restart: factor above 1, or ``None``: never.
    """

    def __init__(self, drop: float | None, restart: float | None) -> None:
        self.drop, self.restart = drop, restart
        self._rate: float | None = None
        self._highest = 0.0
        self._change = 0.0
        self._jumped = False

    def see(self, rate: float) -> RateCause | None:
        """What happened, given the rate of the next step; rates below 0 or not finite are passed over."""
        if not (math.isfinite(rate) and rate >= 0.0):
            return None
        last, self._rate = self._rate, rate
        cause = None
        if last is not None and rate != last:
            cause = self._cause(last, rate)
            self._change, self._jumped = rate - last, cause is not None
        self._highest = max(self._highest, rate)
        return cause

    def _cause(self, last: float, rate: float) -> RateCause | None:
        size, before = abs(rate - last), abs(self._change)
        onward = size > _SUDDEN * before  # true of the first change
        if rate < last:
            deep = self.drop is not None and rate > 0.0 and last >= self.drop * rate * (1 - 1e-9)
            return "lr_drop" if deep and (self._jumped or self._change > 0.0 or onward) else None
        steep = self.restart is not None and last < self._highest and rate >= self.restart * last * (1 - 1e-9)
        turn = self._change < 0.0 and size > _TURN * before
        return "lr_restart" if steep and (turn or onward or (self._jumped and self._change < 0.0)) else None

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"rate": self._rate, "highest": self._highest, "change": self._change, "jumped": self._jumped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._rate = None if state["rate"] is None else float(state["rate"])
        self._highest, self._change = float(state["highest"]), float(state["change"])
        self._jumped = bool(state["jumped"])


class ScoreWatch:
    """Sees validation scores, higher is better, and compares each with the best since the last thaw.

    Args:
        worse: how far below the best a score may fall, in the score's own unit, or ``None``: any distance.
    """

    def __init__(self, worse: float | None) -> None:
        self.worse = worse
        self._best: float | None = None

    def see(self, score: float, *, frozen: bool = True) -> bool:
        """Whether to thaw; then the best starts anew. Never where nothing is ``frozen``.

        Raises:
            ConfigError: the score is not a finite number.
        """
        score = float(score)
        if not math.isfinite(score):
            raise ConfigError(f"a validation score must be a finite number where higher is better, not {score}")
        self._best = score if self._best is None else max(self._best, score)
        if not frozen or self.worse is None or self._best - score <= self.worse:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Something else thawed: the best so far counts no more."""
        self._best = None

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._best = None if state["best"] is None else float(state["best"])
