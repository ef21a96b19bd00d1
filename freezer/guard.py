"""Guards around freezing: no block may lose its gradients by it, and the model must stay the one that was surveyed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from freezer.errors import UnitError, VerificationError
from freezer.hooks import ModuleHook, before_step, inside
from freezer.reach import reached
from freezer.trace import clean_name, parameters_of, tensors_in
from freezer.units import Unit

_FIRST_STEPS = 3


class GradientGuard:
    """At the first update after a change, every block that is still trained must have a gradient.

    Reentrant activation checkpointing gives none where its input needs none, which is so behind a frozen prefix, and
    no error: the blocks behind silently never train. Their forward pass runs without gradients, and never again with.
    So do a block's successors tell of a cut, where they are fed nothing that asks for a gradient. Blocks that the model
    skipped in this step are let off, or that the user had switched off (the other half of a GAN), and those whose
    output this step's loss does not use (heads by turns). Units that the optimizer does not hold are not its to update.

    It looks at the first few updates and the one after each change; at others its hook returns at once.

    Args:
        units: in execution order.
        parameters: the model's, by name.
        optimizer: its step is what is guarded.
        modules: the model's, by path, with the model itself as ``""``; without them every block counts as run.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        *,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self._units = [unit for unit in units if unit.used]
        self._optimizer = optimizer
        self._parameters = parameters
        self._modules = modules
        self._frozen: frozenset[str] = frozenset()
        self._seen: set[str] = set()  # blocks that had a gradient in an update that was looked at
        self._ran: set[str] = set()
        self._built_graph: set[str] = set()
        self._starved: set[str] = set()  # blocks that were fed nothing that asks for a gradient
        self._reached: set[int] = set()  # parameters that the graph of an output led to
        self._due = False
        self._look = _FIRST_STEPS
        self._forward_hooks: list[Any] = []
        last = [optimizer, *inside(optimizer)][-1]  # wrappers have other ways to be stepped: SAM in two halves
        self._step_hook = before_step(last, self.before_update)

    def changed(self, frozen: Collection[str]) -> None:
        """Exactly these units are frozen from now on; the next update is to be guarded."""
        if self._step_hook is None:
            return
        self._frozen = frozenset(frozen)
        self._due = True
        for noted in (self._ran, self._built_graph, self._starved, self._reached):
            noted.clear()
        self._look = max(self._look, 1)
        if self._modules is not None and not self._forward_hooks:
            for block, path in {u.block: u.modules[0] for u in reversed(self._units) if u.modules}.items():
                note = ModuleHook(self._note(block))
                self._forward_hooks.append(self._modules[path].register_forward_pre_hook(note, with_kwargs=True))
            self._forward_hooks.append(self._modules[""].register_forward_hook(ModuleHook(self._note_output)))

    def before_update(self) -> None:
        """Look at the gradients that the optimizer is about to use. Called by its step.

        Raises:
            VerificationError: names the first active unit of a block that lost its gradients, and the likely cause.
        """
        if self._look == 0:
            return
        having = self._blocks_with_gradients()
        due, self._due = self._due, False
        self._look -= 1
        self._drop_forward_hooks()
        if due:
            self._refuse_loss(having)
        self._seen |= having

    def close(self) -> None:
        """Take all hooks off."""
        if self._step_hook is not None:
            self._step_hook.remove()
        self._drop_forward_hooks()

    def _refuse_loss(self, having: Collection[str]) -> None:
        behind = False  # whether something in front is frozen
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        for unit in self._units:
            if unit.name in self._frozen:
                behind = True
                continue
            ours = any(id(self._parameters[n]) in held for n in unit.params)
            if ours and unit.block not in having and self._lost(unit.block, behind):
                raise VerificationError(
                    f"unit {unit.name!r} is trained but got no gradient in the first step after the frozen units "
                    f"changed ({len(self._frozen)} frozen). Reentrant activation checkpointing does this behind a "
                    "frozen prefix: call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
                )

    def _lost(self, block: str, behind: bool) -> bool:
        if self._modules is None:
            return block in self._seen
        if block not in self._ran:
            return False
        if block not in self._built_graph:
            return behind or block in self._seen
        return behind and block in self._seen and self._is_cut_off(block)

    def _is_cut_off(self, block: str) -> bool:
        """Whether no output was computed from it, and a later block was fed what asks for no gradient. Of an output
        that is not used, the first is true; of the first layer of a parallel branch, the second."""
        mine = [unit for unit in self._units if unit.block == block]
        if not self._reached or any(id(self._parameters[n]) in self._reached for unit in mine for n in unit.params):
            return False
        ran = max((site.order for unit in mine for site in unit.sites), default=0)
        fed = {u.block: u.sites[0].input_order for u in reversed(self._units) if u.sites}
        return any(fed.get(later, 0) > ran for later in self._starved)

    def _blocks_with_gradients(self) -> set[str]:
        having: set[str] = set()
        for unit in self._units:
            if unit.block not in having and any(self._parameters[n].grad is not None for n in unit.params):
                having.add(unit.block)
        return having

    def _note(self, block: str) -> Any:
        root = self._modules[""] if self._modules is not None else None
        units = [unit for unit in self._units if unit.block == block]

        def note(module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            if root is None or root.training:
                active = [n for unit in units if unit.name not in self._frozen for n in unit.params]
                if any(self._parameters[n].requires_grad for n in active):
                    self._ran.add(block)
                if torch.is_grad_enabled():
                    self._built_graph.add(block)
                    fed = [t for t in tensors_in([args, kwargs]) if t.is_floating_point()]
                    if fed and not any(t.requires_grad for t in fed):
                        self._starved.add(block)

        return note

    def _note_output(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        """After a training pass, and only where a block is still unaccounted for: following a graph takes time."""
        if not (module.training and torch.is_grad_enabled()):
            return
        there = {u.block for u in self._units if any(id(self._parameters[n]) in self._reached for n in u.params)}
        if any(unit.block not in there and unit.name not in self._frozen for unit in self._units):
            self._reached |= reached(output)

    def _drop_forward_hooks(self) -> None:
        for hook in self._forward_hooks:
            hook.remove()
        self._forward_hooks.clear()


class ModelGuard:
    """The model as it was surveyed: the same parameters, and for each unit the same modules."""

    def __init__(self, model: nn.Module, units: Sequence[Unit]) -> None:
        self._model = model
        self._unit_of = {name: unit.name for unit in units for name in unit.params}
        self._unit_at = {path: unit.name for unit in units for path in unit.modules}
        self._parameters = {n: (p, p.shape, p.dtype) for n, p in parameters_of(model, all_names=True).items()}
        modules = {clean_name(n): m for n, m in model.named_modules()}
        self._modules = {path: modules[path] for path in self._unit_at if path in modules}

    def check(self) -> None:
        """Compare with the model as it is now.

        Raises:
            UnitError: names the unit, and the parameter or module that is another, new, gone or reshaped.
        """
        now = {clean_name(n): m for n, m in self._model.named_modules()}
        for path, module in self._modules.items():
            if now.get(path) is not module:
                what = "was replaced" if path in now else "was removed"
                raise self._error(self._unit_at[path], f"module {path or 'root'} {what}")
        parameters = parameters_of(self._model, all_names=True)
        for name, (parameter, shape, dtype) in self._parameters.items():
            here = parameters.get(name)
            if here is None:
                raise self._error(self._near(name), f"parameter {name} was removed")
            if here is not parameter:
                raise self._error(self._near(name), f"parameter {name} was replaced")
            if here.shape != shape or here.dtype != dtype:
                change = f"{list(shape)} {dtype} to {list(here.shape)} {here.dtype}"
                raise self._error(self._near(name), f"parameter {name} changed from {change}")
        added = next((name for name in parameters if name not in self._parameters), None)
        if added is not None:
            raise self._error(self._near(added), f"parameter {added} was added")

    def _near(self, name: str) -> str | None:
        """The unit of a parameter, or of the innermost module around it that belongs to one."""
        if name in self._unit_of:
            return self._unit_of[name]
        path = name
        while "." in path:
            path = path.rsplit(".", 1)[0]
            inside = [unit for at, unit in self._unit_at.items() if at == path or at.startswith(f"{path}.")]
            if inside:
                return inside[0]
        return None

    def _error(self, unit: str | None, what: str) -> UnitError:
        where = f"unit {unit!r}" if unit is not None else "a part that is no unit"
        return UnitError(
            f"the model changed under the freezer in {where}: {what}. Change models before the freezer sees them, or "
            "make a new Freezer (and optimizer) afterwards"
        )
