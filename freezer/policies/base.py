"""What a freezing policy is: it looks at windows of weights and says which units have converged. No torch needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from freezer.config import FreezeConfig
from freezer.units import Unit
from freezer.windows import Snapshot


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy's word on one unit at one freezing stage.

    Attributes:
        unit: name of the unit.
        converged: whether the policy would freeze it now. The planner has the last word.
        probability: calibrated probability of having converged in [0, 1], or ``None`` for policies without one.
        thaw: the unit is frozen and should train again. Not together with ``converged``.
    """

    unit: str
    converged: bool
    probability: float | None = None
    thaw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """Everything a policy may look at; copies, so that it can be read while training goes on.

    Attributes:
        step: completed optimizer steps at the freezing stage.
        total_steps: planned length of the run.
        units: all units in execution order; the last used one is the head.
        frozen: names of the units that are frozen now.
        windows: window of each recorded unit, oldest snapshot first.
        learning_rate: of the first parameter group at the stage.
        initial_learning_rate: the same group's rate when the freezer was made.
        config: the run's settings.
        extra: what the policy's own ``collect`` gave at this stage; empty for policies without one.
    """

    step: int
    total_steps: int
    units: Sequence[Unit]
    frozen: frozenset[str]
    windows: Mapping[str, Sequence[Snapshot]]
    learning_rate: float
    initial_learning_rate: float
    config: FreezeConfig
    extra: Mapping[str, Any] = field(default_factory=dict)


class Policy(Protocol):
    """Decides on rank 0, in a worker thread beside training. Same context, same verdicts."""

    @property
    def name(self) -> str:
        """Name in the settings and in every report."""

    def decide(self, context: PolicyContext) -> list[Verdict]:
        """Verdicts on units that are not frozen; a unit left out counts as not converged."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values with which :meth:`load_state_dict` restores the policy bit for bit."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
