"""``freezeout``: every unit anneals its learning rate along a cosine of its own and then freezes, first units first.

Source: Brock, Lim, Ritchie & Weston, "FreezeOut: Accelerate Training by Progressively Freezing Layers" (2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from freezer.config import FreezeConfig
from freezer.policies.annealing import Annealing
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.units import Unit

_POWERS = {"linear": 1, "squared": 2, "cubic": 3}


class FreezeOutPolicy(Defaults):
    """Units freeze at the times of :class:`~freezer.policies.annealing.Annealing`.

    Options: ``t0`` (0.8, before the power), ``how`` (cubic), ``scale`` (on): what the paper recommends.

    Deviations: layers are the run's units. A unit is frozen by the engine at the first stage after ``t_i``; its rate is
    0 from ``t_i`` on, so the weights are the same. Progress is counted in steps.
    """

    name = "freezeout"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        self.annealing = Annealing(
            t0=float(config.options.get("t0", 0.8)),
            power=_POWERS[config.options.get("how", "cubic")],
            scale=bool(config.options.get("scale", True)),
        )

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        return self.annealing.rates(step, total_steps, units)

    def decide(self, context: PolicyContext) -> list[Verdict]:
        now = context.step / max(1, context.total_steps)
        times = self.annealing.times(context.units)
        return [Verdict(name, True) for name, end in times.items() if now >= end and name not in context.frozen]
