"""What the freezer knows once it has seen a batch: the model as units, who samples and applies, what a step costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from freezer.apply import Applier
from freezer.cache.rows import first_dimension
from freezer.config import FreezeConfig
from freezer.cost import StepFlops, leading, step_flops
from freezer.forms import differing, noted_forms
from freezer.planner import resolve_pins
from freezer.proxy import batch_size
from freezer.reach import differentiated, exercised
from freezer.saved import Saved, measure_saved
from freezer.surveyed import Surveyed, shapes_of
from freezer.trace import parameters_of
from freezer.trajectory import Sampler
from freezer.units import Unit, survey


class Prepared:
    """One model surveyed with one example batch, or with that of the run that it goes on with.

    Attributes:
        units: in execution order.
        pinned: names of the units that the settings pin.
        full: FLOPs of one pass over the example with nothing frozen; ``now`` with what is frozen, ``prefix`` with
            only its contiguous run from the input.
        survey: units and what else costs.
        surveyed: the same with what belongs to it, as a checkpoint holds it.
        example_rows: samples in the example batch.
        saved: what one pass over it stores for the backward pass.
        full_bytes: gradient bytes of full training at each synchronisation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        config: FreezeConfig,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spill: Path | None = None,
        known: Surveyed | None = None,
    ) -> None:
        """``known`` is the survey of the run that goes on here; without it, or for another model, one is made."""
        self._model, self._optimizer, self._config, self._spill = model, optimizer, config, spill
        if known is not None and not known.fits(model, config.unit):
            known = None
        if known is None:
            known, self.saved = _look(model, optimizer, config, args, kwargs)
        else:
            self.saved = measure_saved(model, known.survey.units, args, kwargs)
        self._use(known)

    def _use(self, known: Surveyed) -> None:
        self.surveyed = known
        self.survey = known.survey
        self.units: list[Unit] = known.survey.units
        self.example_rows = known.rows
        self.pinned = resolve_pins(self._config.pin, self.units)
        self.sampler = Sampler(self.units, self._model, self._config.samples, self._config.seed)
        used = {id(p) for name, p in parameters_of(self._model).items() if name not in known.unused}
        self.applier = Applier(
            self._model, self.units, self._optimizer, spill=self._spill, exercised=used, awake=known.awake
        )
        self.full_bytes = self.applier.gradient_bytes()
        self.full: StepFlops = step_flops(self.survey)
        self.now = self.prefix = self.full

    def adopt(self, known: Surveyed) -> bool:
        """Go by the survey of a run that is resumed, where it is another one, of the same model; whether it was so.

        Everything is thawed then: the plan is to be applied anew, and who held on to units or applier must ask again.
        """
        asleep = [name for unit in self.applier.frozen for name in self.applier.units[unit].params]
        if known == self.surveyed or not known.fits(self._model, self._config.unit, asleep):
            return False
        self.applier.forget()  # other weights have been loaded
        self.applier.apply(())
        self.applier.close()
        self._use(known)
        return True

    def unsound(self) -> str | None:
        """The first unit with weights that are not finite."""
        named = parameters_of(self._model)
        sound = {name for name, p in named.items() if bool(torch.isfinite(p.detach()).all())}
        return next((unit.name for unit in self.units if not sound.issuperset(unit.params)), None)

    @property
    def used(self) -> tuple[Unit, ...]:
        """Units that ran: only these are recorded and judged."""
        return tuple(unit for unit in self.units if unit.used)

    @property
    def digest(self) -> str:
        """SHA-256 of the units, their parameters and what of these runs, in hex: equal on ranks that train alike,
        with the same modules held in eval mode."""
        identity = [*([unit.name, *unit.params] for unit in self.units), self.applier.unused, *self.surveyed.awake]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def passes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Size of a batch, in examples of the survey."""
        return batch_size(args, kwargs) / self.surveyed.size

    def price(self, frozen: Collection[str]) -> None:
        """Set :attr:`now` and :attr:`prefix` for what is frozen from here on."""
        self.now = step_flops(self.survey, frozen)
        self.prefix = step_flops(self.survey, leading(self.units, frozen))


def _look(
    model: nn.Module, optimizer: Optimizer, config: FreezeConfig, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Surveyed, Saved]:
    """Survey the model with the example, and what one training pass over it stores."""
    with noted_forms(model) as forms:
        found = survey(model, args, kwargs, config.unit)
    # layers may run in training alone: auxiliary heads, deep supervision
    with exercised(model) as used, differentiated(model) as trained, noted_forms(model) as forms_in_training:
        saved = measure_saved(model, found.units, args, kwargs)
    led = _led(found.units, parameters_of(model), optimizer, trained)
    others = tuple(name for unit in found.units if unit.name in led for name in unit.params)
    if led:
        found = found.without(led)
        saved = measure_saved(model, found.units, args, kwargs)
    return Surveyed(
        survey=found,
        grain=config.unit,
        rows=first_dimension((tuple(args), dict(kwargs))) or 1,
        size=batch_size(args, kwargs),
        unused=tuple(name for name, p in parameters_of(model).items() if id(p) not in used),
        led=others,
        awake=tuple(differing(forms, forms_in_training)),
        shapes=shapes_of(model),
    ), saved


def _led(
    units: Sequence[Unit], parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, trained: Collection[int]
) -> frozenset[str]:
    """Units whose weights move by other means than training: those of a target network, which runs under ``no_grad``,
    is not in the optimizer and follows the trained one. To the freezer they are as if the user had fixed them; none
    where nothing would be left.

    Args:
        trained: ``id`` of each parameter that a pass with gradients uses.
    """
    ours = {id(p) for group in optimizer.param_groups for p in group["params"]} | set(trained)
    used = [unit for unit in units if unit.used]
    led = frozenset(u.name for u in used if not any(id(parameters[n]) in ours for n in u.params))
    return led if len(led) < len(used) else frozenset()
