"""``linear``: the share of frozen units grows linearly with progress (MosaicML Composer's LayerFreezing)."""

from __future__ import annotations

from freezer.config import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict


def frozen_count(progress: float, units: int, start: float, level: float) -> int:
    """How many of ``units`` are frozen at ``progress`` in [0, 1]: none before ``start``, ``level`` at the end."""
    if progress <= start or start >= 1.0:
        return 0
    return int(units * level * (progress - start) / (1.0 - start))


class LinearPolicy(Defaults):
    """Options: ``start`` (progress at which freezing begins, 0.5) and ``level`` (share frozen at the end, 1.0)."""

    name = "linear"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        self.start = float(config.options.get("start", 0.5))
        self.level = float(config.options.get("level", 1.0))

    def decide(self, context: PolicyContext) -> list[Verdict]:
        progress = context.step / max(1, context.total_steps)
        count = frozen_count(progress, len(context.units), self.start, self.level)
        return [Verdict(unit.name, True) for unit in context.units[:count] if unit.name not in context.frozen]
