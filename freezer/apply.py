"""Turn a plan into a model: gradients off, eval mode that no ``train()`` undoes, moments parked. Reversible."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.errors import ConfigError, UnitError, VerificationError
from freezer.guard import GradientGuard, ModelGuard
from freezer.modes import Modes
from freezer.moments import Moments
from freezer.sums import bit_sums, sums_of
from freezer.trace import clean_name, parameters_of
from freezer.units import Unit

_RENORMS = 20


class Applier:
    """Holds one model at an exact set of frozen units.

    The optimizer keeps every parameter in its groups and all its moments: ``grad = None`` makes it pass a parameter
    over, whereas a zeroed gradient would still move it by momentum and weight decay. The moments of frozen units are
    parked (:class:`Moments`), into files under ``spill`` on the CPU.

    After each change the first update is guarded (:class:`GradientGuard`): no block may have lost its gradients.

    Args:
        exercised: ``id`` of each parameter that a pass in training mode uses; its unit need not be one that ran in the
            recorded pass.
        awake: paths of modules that are never put to sleep, whatever is frozen in them (:class:`freezer.modes.Modes`).
    """

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        optimizer: Optimizer,
        *,
        spill: Path | None = None,
        exercised: Collection[int] = (),
        awake: Collection[str] = (),
    ) -> None:
        self.model = model
        self.units = {unit.name: unit for unit in units}
        self.optimizer = optimizer
        self.frozen: frozenset[str] = frozenset()
        self.moments = Moments(optimizer, spill)
        self._parameters = parameters_of(model)
        missing = [(u.name, n) for u in units for n in u.params if n not in self._parameters]
        if missing:
            raise UnitError(f"unit {missing[0][0]!r} names parameter {missing[0][1]!r}, which the model does not have")
        self._modules = {clean_name(n): m for n, m in model.named_modules()}
        self._modes = Modes(model, self._modules, units, awake)
        self._held = _parameter_ids(optimizer)
        idle = [n for unit in units if not unit.used for n in unit.params]
        self._unused = [n for n in idle if id(self._parameters[n]) not in exercised]
        self._frozen_sums: dict[str, int] = {}
        self._still_ids: dict[str, int] = {}
        self._model_guard = ModelGuard(model, units)
        self._gradient_guard = GradientGuard(units, self._parameters, optimizer, modules=self._modules)

    def apply(self, frozen: Collection[str]) -> None:
        """Freeze exactly ``frozen``, thaw the rest, and verify. Two passes over the weights, whatever is frozen.

        Raises:
            UnitError: a name that is no unit, or a model that is not the one surveyed; nothing was changed.
            ConfigError: an optimizer that would move frozen weights; nothing was changed.
            VerificationError: weights moved, gradients are left, or the optimizer lost a parameter.
        """
        target = frozenset(frozen)
        unknown = sorted(target - self.units.keys())
        if unknown:
            raise UnitError(f"no unit is named {unknown[0]!r}")
        if target:
            refuse_joint(self.optimizer)
        self.refuse_changes()
        self._shorten(target - self.frozen)
        before = self.checksums()
        self._compare(before)
        off = self._off(set(self.units) - target - self.frozen)
        for name, unit in self.units.items():
            if (name in target) == (name in self.frozen):
                continue
            for parameter in unit.params:
                self._parameters[parameter].requires_grad_(name not in target)
                if name in target:
                    self._parameters[parameter].grad = None
        thawed = self.frozen - target
        self.frozen = target
        self._modes.set(target)
        self.moments.begin([self._parameters[p] for n in sorted(thawed) for p in self.units[n].params])
        self.moments.park({n: [self._parameters[p] for p in self.units[n].params] for n in sorted(target)})
        after = self.checksums()
        self.verify(before, after, off=off)
        self._keep(after)
        self._gradient_guard.changed(target)

    def remember(self) -> None:
        """Note the frozen units' weights; they must be the same at the next event."""
        self._keep(self.checksums())

    def remember_buffers(self) -> None:
        """Note the still buffers anew: on other ranks, wrapping has just made them rank 0's. Cheap."""
        still = self._still()
        self._frozen_sums |= dict(zip(still, bit_sums([buffer for buffer, _ in still.values()]), strict=True))

    def forget(self) -> None:
        """Other weights are being loaded: nothing to compare with until the next event."""
        self._frozen_sums = {}

    def close(self) -> None:
        """Take the guard's hooks off model and optimizer. What is frozen stays so."""
        self._gradient_guard.close()

    def verify(
        self,
        before: dict[str, int] | None = None,
        after: dict[str, int] | None = None,
        *,
        off: Collection[str] = (),
    ) -> None:
        """Check the model against :attr:`frozen`; with checksums ``before`` also that no weight changed since.

        Args:
            off: names of parameters of active units that the user has switched off, and that must have stayed so.

        Raises:
            VerificationError: names the first parameter that is not as it should be.
        """
        for unit in self.units.values():
            for name in unit.params:
                p = self._parameters[name]
                if p.requires_grad == (unit.name in self.frozen or name in off):
                    state = "active" if p.requires_grad else "frozen"
                    raise VerificationError(f"{name} is {state}, against the plan for unit {unit.name!r}")
                if unit.name in self.frozen and p.grad is not None:
                    raise VerificationError(f"{name} of frozen unit {unit.name!r} still holds a gradient")
        lost = self._held - _parameter_ids(self.optimizer)
        if lost:
            names = [n for n, p in self._parameters.items() if id(p) in lost]
            raise VerificationError(f"the optimizer no longer holds {', '.join(names) or 'a parameter'}")
        if before is not None:
            now = self.checksums() if after is None else after
            moved = [n for n in before if now.get(n, before[n]) != before[n]]
            if moved:
                raise VerificationError(f"the freezing event changed the weights of {', '.join(moved)}")

    def verify_still(self) -> None:
        """Check that no frozen unit moved since it was frozen.

        Raises:
            VerificationError: names the unit; something outside writes its weights, gradients or buffers.
        """
        self._compare(sums_of({name: value for name, value in self._watched().items() if name in self._frozen_sums}))

    def _off(self, units: Collection[str]) -> frozenset[str]:
        """Names of the parameters of these units that are switched off: the other half of a GAN, for a while."""
        return frozenset(n for unit in units for n in self.units[unit].params if not self._parameters[n].requires_grad)

    def checksums(self) -> dict[str, int]:
        """Sum of the bit patterns, modulo 2**64, of every parameter and every still buffer. One transfer a device."""
        return sums_of(self._watched())

    def _watched(self) -> dict[str, Tensor]:
        return {**self._parameters, **{name: buffer for name, (buffer, _) in self._still().items()}}

    @property
    def unused(self) -> list[str]:
        """Names of trainable parameters that took no part in the recorded pass, nor in one in training mode."""
        return list(self._unused)

    @property
    def still_buffers(self) -> list[str]:
        """Names of the buffers of modules in eval mode for good, all of whose units are frozen: nothing changes them,
        so DDP need not broadcast them before every pass."""
        return list(self._still())

    def gradient_bytes(self) -> int:
        """Bytes of all gradients of what runs: what full training reduces at each synchronisation."""
        trained = {n for unit in self.units.values() for n in unit.params} - set(self._unused)
        return sum(p.numel() * p.element_size() for p in map(self._parameters.__getitem__, trained))

    def refuse_changes(self) -> None:
        """Raise when the model is no longer the one that was surveyed. About a millisecond: at stages and events.

        Raises:
            UnitError: names the unit, and the parameter or module that was replaced, added, removed or reshaped.
        """
        self._model_guard.check()

    @torch.no_grad()
    def _shorten(self, units: Collection[str]) -> None:
        """Bring all rows of embeddings with ``max_norm`` to it: such a layer does so whenever it reads a row, frozen or
        not."""
        for path in {path for name in units for path in self.units[name].modules}:
            table = self._modules[path]
            if not isinstance(table, nn.Embedding | nn.EmbeddingBag) or table.max_norm is None:
                continue
            rows = torch.arange(table.num_embeddings, device=table.weight.device)
            for _ in range(_RENORMS):  # rounding may leave a row a little too long: until no reading changes any
                before = table.weight.clone()
                torch.embedding_renorm_(table.weight, rows, table.max_norm, table.norm_type)
                if torch.equal(table.weight, before):
                    break

    def _still(self) -> dict[str, tuple[Tensor, str]]:
        """Buffers that must not change, each with one of its frozen units."""
        found: dict[str, tuple[Tensor, str]] = {}
        for path, owners in self._modes.owners.items():
            if not owners or not owners <= self.frozen:
                continue
            for name, buffer in self._modules[path].named_buffers(recurse=False):
                found[f"{path}.{name}" if path else name] = (buffer, min(owners))
        return found

    def _keep(self, sums: dict[str, int]) -> None:
        still = [*self._still(), *(p for name in self.frozen for p in self.units[name].params)]
        self._frozen_sums = {name: sums[name] for name in still}
        self._still_ids = {name: id(buffer) for name, (buffer, _) in self._still().items()}

    def _compare(self, sums: dict[str, int]) -> None:
        moved = {name for name, value in self._frozen_sums.items() if sums.get(name, value) != value}
        for unit in sorted(self.frozen) if moved else ():
            if not moved.isdisjoint(self.units[unit].params):
                raise VerificationError(
                    f"frozen unit {unit!r} moved: something writes its weights or its gradients. An optimizer that "
                    "averages weights (Lookahead) does, and so does loading others without freezer.load_state_dict()"
                )
        for name, (buffer, unit) in self._still().items() if moved else ():
            if name in moved and self._still_ids[name] == id(buffer):  # a new one is a table that grew, not a state
                raise VerificationError(
                    f"buffer {name} of frozen unit {unit!r} moved in eval mode: "
                    "a unit that changes without being trained cannot be frozen, so pin it"
                )


def refuse_joint(optimizer: Optimizer) -> None:
    """Raise for optimizers under which nothing can be frozen.

    Raises:
        ConfigError: it moves all parameters as one, those without a gradient too.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "LBFGS moves all parameters as one, frozen ones too: use another optimizer, or the policy 'none' and "
            "freeze nothing",
            "/policy",
        )


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
