"""``static``: a prefix, or named units, frozen from a given moment on: the schedule that one would write by hand."""

from __future__ import annotations

from collections.abc import Sequence

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.policies.thaw_last import opening
from freezer.units import Unit


class StaticPolicy(Defaults):
    """Options: ``units`` (names), ``first`` (how many from the input) or ``share`` (of the forward FLOPs, from the
    input on: whole blocks, at least the first unit, never the last); ``start``: progress at which they freeze, 0.
    """

    name = "static"
    calendar = True

    def __init__(self, config: FreezeConfig) -> None:
        self.config = config
        self.start = float(config.options.get("start", 0.0))
        self.at_start = self.start == 0.0

    def decide(self, context: PolicyContext) -> list[Verdict]:
        """Raises ConfigError as :func:`wanted` does."""
        if context.step < self.start * context.total_steps:
            return []
        chosen = wanted(self.config, context.units)
        return [Verdict(name, True) for name in chosen if name not in context.frozen]


def wanted(config: FreezeConfig, units: Sequence[Unit]) -> dict[str, str]:
    """Where in the settings each unit that is to be frozen is asked for: a JSON pointer by name, in execution order.

    Raises:
        ConfigError: a name that is no unit, or more units than the model has: a typing error must not be a no-op.
    """
    names = [unit.name for unit in units]
    asked: list[str] = config.options.get("units", [])
    for position, name in enumerate(asked):
        if name not in names:
            raise ConfigError(f"no unit is named {name!r}; units: {', '.join(names)}", f"/options/units/{position}")
    if asked:
        return {name: f"/options/units/{asked.index(name)}" for name in names if name in asked}
    used = [unit for unit in units if unit.used]
    if (share := config.options.get("share")) is not None:
        return {unit.name: "/options/share" for unit in used[: opening(used, share)]}
    if (first := config.options.get("first", 0)) > len(names):
        raise ConfigError(f"the model has only {len(names)} units, not {first}", "/options/first")
    return dict.fromkeys((unit.name for unit in used[:first]), "/options/first")
