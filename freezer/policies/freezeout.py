"""``freezeout``: every unit anneals its learning rate along a cosine of its own and then freezes, first units first.

Source: Brock, Lim, Ritchie & Weston, "FreezeOut: Accelerate Training by Progressively Freezing Layers" (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from freezer.config import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.units import Unit

_POWERS = {"linear": 1, "squared": 2, "cubic": 3}


class FreezeOutPolicy(Defaults):
    """Unit ``i`` of ``0..L`` freezes at progress ``t_i = (t0 + (1 - t0) i / L) ** power``; the last one at the end.

    Options: ``t0`` (0.8, before the power), ``how`` (cubic), ``scale`` (on): what the paper recommends.

    Deviations: the paper's formula for the learning rate lacks the factor 1/2, its text and code have it. Layers are
    the run's units. A unit is frozen by the engine at the first stage after ``t_i``; its rate is 0 from ``t_i`` on, so
    the weights are the same. Progress is counted in steps.
    """

    name = "freezeout"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        self.t0 = float(config.options.get("t0", 0.8))
        self.power = _POWERS[config.options.get("how", "cubic")]
        self.scale = bool(config.options.get("scale", True))

    def times(self, units: Sequence[Unit]) -> dict[str, float]:
        """Progress in [0, 1] at which each used unit freezes."""
        used = [unit.name for unit in units if unit.used]
        last = max(1, len(used) - 1)
        if len(used) == 1:
            return {used[0]: 1.0}
        return {name: (self.t0 + (1.0 - self.t0) * i / last) ** self.power for i, name in enumerate(used)}

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        """``0.5 (1 + cos(pi t / t_i))``, over ``t_i`` if scaled, at ``t = step / total_steps``; 0 from ``t_i``."""
        now = step / max(1, total_steps)
        return {name: self._factor(now, end) for name, end in self.times(units).items()}

    def _factor(self, now: float, end: float) -> float:
        if now >= end:
            return 0.0
        factor = 0.5 * (1.0 + math.cos(math.pi * now / end))
        return factor / end if self.scale else factor

    def decide(self, context: PolicyContext) -> list[Verdict]:
        now = context.step / max(1, context.total_steps)
        times = self.times(context.units)
        return [Verdict(name, True) for name, end in times.items() if now >= end and name not in context.frozen]
