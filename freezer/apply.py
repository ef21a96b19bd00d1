"""Turn a plan into a model: gradients off, eval mode that no ``train()`` undoes, optimizer untouched. Reversible."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.errors import UnitError, VerificationError
from freezer.trace import clean_name, is_drop, owner_of
from freezer.units import Unit

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Applier:
    """Holds one model at an exact set of frozen units.

    The optimizer keeps every parameter in its groups and all its moments: ``grad = None`` makes it pass a parameter
    over, whereas a zeroed gradient would still move it by momentum and weight decay.
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit], optimizer: Optimizer) -> None:
        self.model = model
        self.units = {unit.name: unit for unit in units}
        self.optimizer = optimizer
        self.frozen: frozenset[str] = frozenset()
        self._parameters = {clean_name(n): p for n, p in model.named_parameters()}
        missing = [(u.name, n) for u in units for n in u.params if n not in self._parameters]
        if missing:
            raise UnitError(f"unit {missing[0][0]!r} names parameter {missing[0][1]!r}, which the model does not have")
        self._modules = {clean_name(n): m for n, m in model.named_modules()}
        self._owners = _mode_owners(self._modules, units)
        self._hooks: dict[str, Any] = {}
        self._held = _parameter_ids(optimizer)
        self._frozen_sums: dict[str, list[int]] = {}

    def apply(self, frozen: Collection[str]) -> None:
        """Freeze exactly ``frozen``, thaw the rest, and verify.

        Raises:
            UnitError: a name that is no unit.
            VerificationError: weights moved, gradients are left, or the optimizer lost a parameter.
        """
        target = frozenset(frozen)
        unknown = sorted(target - self.units.keys())
        if unknown:
            raise UnitError(f"no unit is named {unknown[0]!r}")
        self.verify_still()
        before = self.checksums()
        for name, unit in self.units.items():
            if (name in target) == (name in self.frozen):
                continue
            for parameter in unit.params:
                self._parameters[parameter].requires_grad_(name not in target)
                if name in target:
                    self._parameters[parameter].grad = None
        self.frozen = target
        self._set_modes()
        self.verify(before)
        self.remember()

    def remember(self) -> None:
        """Note the frozen units' weights; they must be the same at the next event."""
        self._frozen_sums = {name: self._sums_of(name) for name in sorted(self.frozen)}

    def forget(self) -> None:
        """Other weights are being loaded: nothing to compare with until the next event."""
        self._frozen_sums = {}

    def verify(self, before: dict[str, int] | None = None) -> None:
        """Check the model against :attr:`frozen`; with ``before`` also that no weight changed.

        Raises:
            VerificationError: names the first parameter that is not as it should be.
        """
        for unit in self.units.values():
            for name in unit.params:
                p = self._parameters[name]
                if p.requires_grad == (unit.name in self.frozen):
                    state = "active" if p.requires_grad else "frozen"
                    raise VerificationError(f"{name} is {state}, against the plan for unit {unit.name!r}")
                if unit.name in self.frozen and p.grad is not None:
                    raise VerificationError(f"{name} of frozen unit {unit.name!r} still holds a gradient")
        lost = self._held - _parameter_ids(self.optimizer)
        if lost:
            names = [n for n, p in self._parameters.items() if id(p) in lost]
            raise VerificationError(f"the optimizer no longer holds {', '.join(names) or 'a parameter'}")
        if before is not None:
            now = self.checksums()
            moved = [n for n in before if now.get(n) != before[n]]
            if moved:
                raise VerificationError(f"the freezing event changed the weights of {', '.join(moved)}")

    def verify_still(self) -> None:
        """Check that no frozen unit moved since it was frozen.

        Raises:
            VerificationError: names the unit; something outside writes its weights or gradients.
        """
        for name, sums in self._frozen_sums.items():
            if sums != self._sums_of(name):
                raise VerificationError(f"frozen unit {name!r} moved: something writes its weights or its gradients")

    def checksums(self) -> dict[str, int]:
        """Sum of the bit patterns of every parameter. One transfer."""
        names = list(self._parameters)
        return dict(zip(names, _bit_sums([self._parameters[n] for n in names]), strict=True))

    @property
    def unused(self) -> list[str]:
        """Names of trainable parameters that took no part in the recorded pass."""
        return [n for unit in self.units.values() if not unit.used for n in unit.params]

    def gradient_bytes(self) -> int:
        """Bytes of all gradients of the units that run: what full training reduces at each synchronisation."""
        used = [self._parameters[n] for unit in self.units.values() if unit.used for n in unit.params]
        return sum(p.numel() * p.element_size() for p in used)

    def refuse_late_use(self) -> None:
        """Raise when a layer that took no part in the recorded pass does now: DDP does not synchronise it.

        Raises:
            VerificationError: names the parameter, and what to do.
        """
        for name in self.unused:
            if self._parameters[name].grad is not None:
                raise VerificationError(
                    f"{name} took no part in the first pass but has a gradient now, which is not synchronised: "
                    "call freezer.prepare() with a batch that uses every layer"
                )

    def _sums_of(self, unit: str) -> list[int]:
        return _bit_sums([self._parameters[n] for n in self.units[unit].params])

    def _set_modes(self) -> None:
        for path, owners in self._owners.items():
            module, asleep = self._modules[path], owners <= self.frozen
            if asleep and path not in self._hooks:
                module.training = False
                self._hooks[path] = module.register_forward_pre_hook(_fall_asleep)
            elif not asleep and path in self._hooks:
                self._hooks.pop(path).remove()
                module.training = self.model.training


def _fall_asleep(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if module.training:  # setting it is far slower than looking
        module.training = False  # not eval(): children have hooks of their own, or belong to active units


def _mode_owners(modules: dict[str, nn.Module], units: Sequence[Unit]) -> dict[str, frozenset[str]]:
    """Modules to be held in eval mode, and the units that must all be frozen for it.

    Units' own modules, and containers for the dropout that they call as a function: a container sleeps when all
    units below it do.
    """
    owners: dict[str, set[str]] = {}
    for unit in units:
        for path in unit.modules:
            owners.setdefault(path, set()).add(unit.name)
    used = {unit.name for unit in units if unit.used}
    below = {path: names & used for path, names in owners.items()}
    for path, module in modules.items():
        if path in owners or is_drop(module) or owner_of(path) != path:
            continue
        inside = f"{path}." if path else ""
        names = {n for p, units_of in below.items() if p.startswith(inside) for n in units_of}
        if names:
            owners[path] = names
    return {path: frozenset(names) for path, names in owners.items()}


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


@torch.no_grad()
def _bit_sums(parameters: Sequence[Tensor]) -> list[int]:
    if not parameters:
        return []
    device = parameters[0].device
    sums = [p.detach().contiguous().view(_INTEGERS[p.element_size()]).sum(dtype=torch.int64) for p in parameters]
    return [int(value) for value in torch.stack([s.to(device) for s in sums]).tolist()]
