"""A learning rate for each unit that falls to nothing at a time of its own, first units first. Pure.

Source: Brock, Lim, Ritchie & Weston, "FreezeOut: Accelerate Training by Progressively Freezing Layers" (2017). The
paper's formula for the rate lacks the factor 1/2, its text and code have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from freezer.units import Unit


@dataclass(frozen=True, slots=True)
class Annealing:
    """Unit ``i`` of ``0..L`` comes to rest at progress ``t_i = (t0 + (1 - t0) i / L) ** power``; the last at the end.

    Attributes:
        t0: of the first unit, in [0, 1], before the power.
        scale: divide each rate by ``t_i``, so that all units travel alike.
    """

    t0: float
    power: int = 3
    scale: bool = True

    def times(self, units: Sequence[Unit]) -> dict[str, float]:
        """Progress in [0, 1] at which each used unit comes to rest."""
        used = [unit.name for unit in units if unit.used]
        last = max(1, len(used) - 1)
        if len(used) == 1:
            return {used[0]: 1.0}
        return {name: (self.t0 + (1.0 - self.t0) * i / last) ** self.power for i, name in enumerate(used)}

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> dict[str, float]:
        """Factors on the initial rate: ``0.5 (1 + cos(pi t / t_i))``, over ``t_i`` if scaled, at
        ``t = step / total_steps``; 0 from ``t_i``."""
        now = step / max(1, total_steps)
        return {name: self._factor(now, end) for name, end in self.times(units).items()}

    def _factor(self, now: float, end: float) -> float:
        if now >= end:
            return 0.0
        factor = 0.5 * (1.0 + math.cos(math.pi * now / end))
        return factor / end if self.scale else factor
