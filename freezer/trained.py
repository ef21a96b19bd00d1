"""Which parameters are trained: as the freezer left them, so that what the user switches on or off since is noticed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from freezer.errors import VerificationError
from freezer.trace import parameters_of
from freezer.units import Unit


class Trained:
    """The model's ``requires_grad`` flags. Looking at them takes less than half a microsecond for each parameter.

    Layers that were fixed before the freezer saw the model belong to no unit, and the user may go on switching them. So
    may layers of active units be off for a while (the other half of a GAN).
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit]) -> None:
        named = parameters_of(model)
        self._names = list(named)
        self._parameters = list(named.values())
        self._unit_of = {name: unit.name for unit in units for name in unit.params}
        self._noted: list[bool] = []

    def note(self) -> None:
        """From here on, what is trained now is what is expected."""
        self._noted = [p.requires_grad for p in self._parameters]

    @property
    def any(self) -> bool:
        """Whether anything is trained at all."""
        return any(p.requires_grad for p in self._parameters)

    def changed(self, frozen: frozenset[str]) -> list[str]:
        """What the user has changed since :meth:`note` so that a wrapper or a cut must be made anew, in words.

        Raises:
            VerificationError: a parameter of a unit in ``frozen`` has been switched on.
        """
        now = [p.requires_grad for p in self._parameters]
        if now == self._noted:
            return []
        found: list[str] = []
        for name, before, after in zip(self._names, self._noted, now, strict=True):
            unit = self._unit_of.get(name)
            if before == after or (unit is not None and not after):
                continue
            if unit in frozen:
                raise VerificationError(
                    f"{name} of frozen unit {unit!r} was made trainable from outside, against the plan. Train a frozen "
                    f"unit again with freezer.thaw([{unit!r}]), or keep it from being frozen with "
                    f"freezer.pin([{unit!r}]); switch requires_grad on only where you switched it off yourself"
                )
            found.append(f"{name} {'on' if after else 'off'}")
        return found
