"""The learning-rate factors that a policy sets, as training asks for them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

from torch import nn

from freezer.policies.base import Policy
from freezer.trace import parameters_of
from freezer.units import Unit


def unit_by_parameter(model: nn.Module, units: Sequence[Unit]) -> dict[int, str]:
    """Name of the unit that holds a parameter, by the parameter's ``id``."""
    named = parameters_of(model)
    return {id(named[name]): unit.name for unit in units for name in unit.params}


class Factors:
    """Asks the policy; where training goes on past the planned end, what it says of the last planned step stays.

    Args:
        policy: has a ``rates`` of its own.
        units: those that are trained, in execution order.
        total_steps: planned length of the run.
    """

    def __init__(self, policy: Policy, units: Sequence[Unit], total_steps: int) -> None:
        self._policy = policy
        self._units = units
        self._total = total_steps
        self._warned = False

    def at(self, step: int, pinned: Collection[str]) -> dict[str, float]:
        """Factor of each unit for the update after ``step`` steps; pinned units follow the user's own schedule."""
        if step >= self._total and not self._warned:
            self._warned = True
            warnings.warn(
                f"training goes on past its planned {self._total} steps: the learning rates that the policy "
                f"{self._policy.name!r} set for the last of them stay. Make the Freezer with the right total_steps",
                RuntimeWarning,
                stacklevel=2,
            )
        wanted = self._policy.rates(min(step, self._total - 1), self._total, self._units)
        return {unit: factor for unit, factor in wanted.items() if unit not in pinned}
