"""A survey as plain values, so that a run that is resumed decides by what it found in its own first batch.

Prices are FLOPs of that batch, and which units run can depend on it: another one would give other decisions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from freezer.config import UnitGrain
from freezer.trace import clean_name, parameters_of
from freezer.units import Site, Survey, Unit


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the example batch told, as far as anything but a report depends on it.

    Attributes:
        survey: units and what else costs.
        grain: what is a unit.
        rows: samples in the batch.
        size: values in its first tensor.
        unused: names of trainable parameters that took no part.
        led: names of parameters in no unit, though they are trainable: they move by other means than training.
        awake: paths of modules that do more in training than drop values (:mod:`freezer.forms`).
        shapes: of all parameters of the model, by name.
    """

    survey: Survey
    grain: UnitGrain
    rows: int
    size: int
    unused: tuple[str, ...]
    led: tuple[str, ...]
    awake: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "units": [asdict(unit) for unit in self.survey.units],
            "fixed": [asdict(site) for site in self.survey.fixed],
            "grain": self.grain,
            "rows": self.rows,
            "size": self.size,
            "unused": list(self.unused),
            "led": list(self.led),
            "awake": list(self.awake),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Surveyed:
        """Inverse of :meth:`to_dict`."""
        units = [
            Unit(
                **{
                    **unit,
                    "params": tuple(unit["params"]),
                    "modules": tuple(unit["modules"]),
                    "sites": tuple(Site(**site) for site in unit["sites"]),
                }
            )
            for unit in values["units"]
        ]
        return cls(
            survey=Survey(units, tuple(Site(**site) for site in values["fixed"])),
            grain=values["grain"],
            rows=values["rows"],
            size=values["size"],
            unused=tuple(values["unused"]),
            led=tuple(values["led"]),
            awake=tuple(values["awake"]),
            shapes={name: tuple(shape) for name, shape in values["shapes"].items()},
        )

    def fits(self, model: nn.Module, grain: UnitGrain, frozen: Collection[str] = ()) -> bool:
        """Whether this is a survey of a model like this one: the same parameters and shapes, the same of them trained,
        and every module of a unit there.

        Args:
            frozen: names of parameters that the freezer holds frozen now, and that are trained otherwise.
        """
        parameters = parameters_of(model)
        if grain != self.grain or shapes_of(model) != self.shapes:
            return False
        trained = {n for n, p in parameters.items() if p.numel() and (p.requires_grad or n in frozen)}
        known = {*self.led, *(name for unit in self.survey.units for name in unit.params)}
        mine = {name for name in known if parameters[name].numel()}
        paths = {clean_name(path) for path, _ in model.named_modules()}
        return trained == mine and all(path in paths for unit in self.survey.units for path in unit.modules)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all parameters, by name."""
    return {name: tuple(p.shape) for name, p in parameters_of(model).items()}
