"""Controls: ``none`` never freezes, ``random`` freezes without looking."""

from __future__ import annotations

import hashlib
from typing import Any

from freezer.config import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict


class NonePolicy(Defaults):
    """Full training under the same engine."""

    name = "none"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        del config

    def decide(self, context: PolicyContext) -> list[Verdict]:
        del context
        return []


class RandomPolicy(Defaults):
    """Every unit freezes at a random moment, so that a ``share`` of all unit-steps is expected to be frozen (mode any).

    The moment is a hash of seed and name: no state, the same in every process and after every resume.
    """

    name = "random"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        self.seed = config.seed
        self.share = float(config.options.get("share", 0.25))

    def moment(self, unit: str) -> float:
        """Progress in [0, 1] at which the unit freezes: ``u ** a`` has the mean ``1 / (1 + a)`` for uniform ``u``."""
        digest = hashlib.sha256(f"{self.seed}\0{unit}".encode()).digest()
        uniform = (int.from_bytes(digest[:8], "big") + 1) / 2**64
        if self.share >= 1.0:
            return 0.0
        return float(uniform ** (self.share / (1.0 - self.share)))

    def decide(self, context: PolicyContext) -> list[Verdict]:
        progress = context.step / max(1, context.total_steps)
        active = [unit.name for unit in context.units if unit.name not in context.frozen]
        return [Verdict(name, True) for name in active if self.moment(name) <= progress]

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "share": self.share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed, self.share = int(state["seed"]), float(state["share"])
