"""What the freezer knows once it has seen a batch: the model as units, who samples and applies, what a step costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from freezer.saved import measure_saved
from freezer.trace import parameters_of
from freezer.trajectory import Sampler
from freezer.units import Unit, survey


class Prepared:
    """One model surveyed with one example batch.

    Attributes:
        units: in execution order.
        pinned: names of the units that the settings pin.
        full: FLOPs of one pass over the example with nothing frozen; ``now`` with what is frozen, ``prefix`` with
            only its contiguous run from the input.
        survey: units and what else costs.
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
    ) -> None:
        with noted_forms(model) as forms:
            self.survey = survey(model, args, kwargs, config.unit)
        self.example_rows = first_dimension((tuple(args), dict(kwargs))) or 1
        self._example_size = batch_size(args, kwargs)
        # layers may run in training alone: auxiliary heads, deep supervision
        with exercised(model) as used, differentiated(model) as trained, noted_forms(model) as forms_in_training:
            self.saved = measure_saved(model, self.survey.units, args, kwargs)
        led = _led(self.survey.units, parameters_of(model), optimizer, trained)
        if led:
            self.survey = self.survey.without(led)
            self.saved = measure_saved(model, self.survey.units, args, kwargs)
        self.units: list[Unit] = self.survey.units
        self.pinned = resolve_pins(config.pin, self.units)
        self.sampler = Sampler(self.units, model, config.samples, config.seed)
        self._awake = differing(forms, forms_in_training)
        self.applier = Applier(model, self.units, optimizer, spill=spill, exercised=used, awake=self._awake)
        self.full_bytes = self.applier.gradient_bytes()
        self.full: StepFlops = step_flops(self.survey)
        self.now = self.prefix = self.full

    @property
    def used(self) -> tuple[Unit, ...]:
        """Units that ran: only these are recorded and judged."""
        return tuple(unit for unit in self.units if unit.used)

    @property
    def digest(self) -> str:
        """SHA-256 of the units, their parameters and what of these runs, in hex: equal on ranks that train alike,
        with the same modules held in eval mode."""
        identity = [*([unit.name, *unit.params] for unit in self.units), self.applier.unused, *self._awake]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def passes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Size of a batch, in examples of the survey."""
        return batch_size(args, kwargs) / self._example_size

    def price(self, frozen: Collection[str]) -> None:
        """Set :attr:`now` and :attr:`prefix` for what is frozen from here on."""
        self.now = step_flops(self.survey, frozen)
        self.prefix = step_flops(self.survey, leading(self.units, frozen))


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
