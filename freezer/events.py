"""What happened: one value for each change of what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from freezer.plan import FreezePlan
from freezer.units import Unit

Cause = Literal["policy", "lr_drop", "lr_restart", "validation", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeEvent:
    """A change of what is frozen, the same on every rank.

    Attributes:
        step: completed optimizer steps when it took effect.
        seq: number of the plan.
        frozen: units frozen by it, in execution order.
        thawed: units thawed by it.
        probabilities: what the policy said, in [0, 1]; units without a probability are left out.
        plan_hash: SHA-256 of the plan.
        indices: execution position of the units named in ``frozen`` and ``thawed``.
        cause: who or what brought it about.
    """

    step: int
    seq: int
    frozen: tuple[str, ...]
    thawed: tuple[str, ...]
    probabilities: dict[str, float]
    plan_hash: str
    indices: dict[str, int]
    cause: Cause = "policy"

    @classmethod
    def between(
        cls, before: FreezePlan, plan: FreezePlan, units: Sequence[Unit], cause: Cause = "policy"
    ) -> FreezeEvent:
        """The change from one plan to the next."""
        frozen, thawed = plan.newly_frozen(before), plan.thawed(before)
        named = {*frozen, *thawed}
        return cls(
            step=plan.step,
            seq=plan.seq,
            frozen=frozen,
            thawed=thawed,
            probabilities={n: p for n, p in plan.probabilities.items() if n in named},
            plan_hash=plan.digest,
            indices={u.name: u.index for u in units if u.name in named},
            cause=cause,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "step": self.step,
            "seq": self.seq,
            "frozen": list(self.frozen),
            "thawed": list(self.thawed),
            "probabilities": dict(self.probabilities),
            "plan_hash": self.plan_hash,
            "cause": self.cause,
        }
