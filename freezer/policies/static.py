"""``static``: the named units, or the first k, are frozen from before the first step on."""

from __future__ import annotations

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.base import Defaults, PolicyContext, Verdict


class StaticPolicy(Defaults):
    """Options: ``units`` (names) or ``first`` (how many from the input)."""

    name = "static"
    calendar = True
    at_start = True

    def __init__(self, config: FreezeConfig) -> None:
        self.units: tuple[str, ...] = tuple(config.options.get("units", ()))
        self.first: int = config.options.get("first", 0)

    def decide(self, context: PolicyContext) -> list[Verdict]:
        """Raises:
        ConfigError: a name that is no unit, or more units than the model has: a typing error must not be a no-op.
        """
        names = [unit.name for unit in context.units]
        for position, name in enumerate(self.units):
            if name not in names:
                raise ConfigError(f"no unit is named {name!r}; units: {', '.join(names)}", f"/options/units/{position}")
        if self.first > len(names):
            raise ConfigError(f"the model has only {len(names)} units, not {self.first}", "/options/first")
        chosen = self.units or names[: self.first]
        return [Verdict(name, True) for name in names if name in chosen and name not in context.frozen]
