"""Orders from outside the policy: freeze, thaw, pin, and a validation score. All ranks alike, between two steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch.optim import Optimizer

from freezer import planner
from freezer.apply import refuse_joint
from freezer.config import FreezeConfig
from freezer.errors import UnitError
from freezer.events import Cause, FreezeEvent
from freezer.parallel import ParallelStrategy
from freezer.pins import Pins
from freezer.plan import FreezePlan, PlannerState
from freezer.planner import matching
from freezer.policies.base import Policy
from freezer.prepared import Prepared
from freezer.thaw import ScoreWatch
from freezer.units import Unit


class Orders(ABC):
    """The part of :class:`freezer.freezer.Freezer` that takes orders. Each takes effect at once."""

    config: FreezeConfig
    optimizer: Optimizer
    parallel: ParallelStrategy
    plan: FreezePlan
    _planner: PlannerState
    _policy: Policy
    _score_watch: ScoreWatch
    _pins: Pins

    @property
    @abstractmethod
    def units(self) -> list[Unit]:
        """Units in execution order."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Completed optimizer steps."""

    @property
    @abstractmethod
    def _prepared(self) -> Prepared:
        """What the first batch told."""

    @property
    @abstractmethod
    def pinned(self) -> frozenset[str]:
        """Units that are never frozen: by the settings, and by :meth:`pin`."""

    @abstractmethod
    def _change(self, plan: FreezePlan, cause: Cause) -> FreezeEvent | None:
        """Bring everything to a plan that all ranks hold."""

    def freeze(self, names: Sequence[str]) -> FreezeEvent | None:
        """Freeze units, whatever the policy says. Names of units or blocks, or ``*`` patterns.

        Raises:
            PlanError: one of them cannot be frozen; says why. Nothing has changed then.
            ConfigError: the optimizer would move frozen weights.
        """
        units = self.units
        refuse_joint(self.optimizer)
        return self._order(
            planner.freeze(self.plan, self._planner, names, units, self.config, step=self.steps, pinned=self.pinned),
            "command",
        )

    def thaw(self, names: Sequence[str] | None = None) -> FreezeEvent | None:
        """Let units train again, by default all; in mode ``prefix`` also what lies behind them.

        Raises:
            PlanError: one of them is no unit, or is not frozen. Nothing has changed then.
        """
        return self._thaw(names, "command")

    def pin(self, names: Sequence[str]) -> FreezeEvent | None:
        """Keep units from being frozen from now on; those that are frozen are thawed.

        Raises:
            UnitError: one of them is no unit. Nothing has changed then.
        """
        wanted = self._named(names)
        frozen = [name for name in self.plan.frozen if name in wanted]
        event = self._thaw(frozen, "command") if frozen else None
        self._pins = self._pins.pin(wanted)
        return event

    def unpin(self, names: Sequence[str]) -> None:
        """Let policies freeze units again that were pinned.

        Raises:
            UnitError: one of them is no unit. Nothing has changed then.
        """
        self._pins = self._pins.unpin(self._named(names), self._prepared.pinned)

    def observe(self, score: float) -> FreezeEvent | None:
        """Tell a validation score, higher is better; thaws everything if it fell by more than ``thaw_on_worse``.

        Raises:
            ConfigError: it is not a finite number.
            AgreementError: the ranks tell different scores.
        """
        self.parallel.same("the validation score", repr(float(score)))
        worse = self._score_watch.see(score, frozen=bool(self.plan.frozen) and not self._policy.calendar)
        return self._thaw(None, "validation") if worse else None

    def _thaw(self, names: Sequence[str] | None, cause: Cause) -> FreezeEvent | None:
        units = self.units
        return self._order(planner.thaw(self.plan, self._planner, names, units, self.config, step=self.steps), cause)

    def _order(self, ordered: tuple[FreezePlan, PlannerState], cause: Cause) -> FreezeEvent | None:
        plan, state = ordered
        self.parallel.same("what was ordered, or the step", [self.steps, self.plan.digest, plan.digest])
        self._planner = state
        return self._change(plan, cause)

    def _named(self, names: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        for name in names:
            matched = matching(name, self.units)
            if not matched:
                raise UnitError(
                    f"{name!r} is no unit, block or pattern; units: {', '.join(u.name for u in self.units)}"
                )
            found.update(matched)
        return frozenset(found)
