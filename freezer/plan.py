"""What is frozen, from which step on, and what the planner remembers: immutable values that all ranks hold alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class FreezePlan:
    """A set of frozen units.

    Attributes:
        seq: number of plans that changed something before this one; 0 for the empty plan at the start.
        step: completed optimizer steps after which it takes effect.
        frozen: names of the frozen units in execution order.
        probabilities: what the policy last said about units, in [0, 1]; for reports, not part of the hash.
    """

    seq: int = 0
    step: int = 0
    frozen: tuple[str, ...] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frozen", tuple(self.frozen))
        object.__setattr__(self, "probabilities", MappingProxyType(dict(self.probabilities)))

    @property
    def digest(self) -> str:
        """SHA-256 over sequence, step and frozen names, in hex: equal on two ranks only if all of them are."""
        text = json.dumps([self.seq, self.step, list(self.frozen)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def newly_frozen(self, before: FreezePlan) -> tuple[str, ...]:
        """Units frozen here and not in ``before``, in execution order."""
        return tuple(name for name in self.frozen if name not in set(before.frozen))

    def thawed(self, before: FreezePlan) -> tuple[str, ...]:
        """Units frozen in ``before`` and not here."""
        return tuple(name for name in before.frozen if name not in set(self.frozen))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "seq": self.seq,
            "step": self.step,
            "frozen": list(self.frozen),
            "probabilities": dict(self.probabilities),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FreezePlan:
        """Inverse of :meth:`to_dict`."""
        return cls(values["seq"], values["step"], tuple(values["frozen"]), dict(values["probabilities"]))


@dataclass(frozen=True, slots=True)
class PlannerState:
    """What the planner carries from one freezing stage to the next.

    Attributes:
        streaks: positive verdicts in a row of each unit that is not frozen; units without any are left out.
        thawed: completed optimizer steps at the last thaw of each unit that was thawed and not frozen again.
    """

    streaks: Mapping[str, int] = field(default_factory=dict)
    thawed: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"streaks": dict(self.streaks), "thawed": dict(self.thawed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlannerState:
        """Inverse of :meth:`to_dict`; checkpoints from before there was thawing have no ``thawed``."""
        return cls(
            {str(name): int(count) for name, count in values["streaks"].items()},
            {str(name): int(step) for name, step in values.get("thawed", {}).items()},
        )
