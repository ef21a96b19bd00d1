"""Frozen modules sleep: eval mode that no ``train()`` undoes, until they are thawed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from freezer.forms import is_torchs
from freezer.hooks import ModuleHook
from freezer.trace import is_drop, owner_of
from freezer.units import Unit


class Modes:
    """Puts modules to sleep and wakes them.

    Args:
        model: whose mode tells whether it is being trained.
        modules: its modules by path.
        awake: paths of modules that do more in training than drop values (:mod:`freezer.forms`): never put to sleep.

    Attributes:
        owners: modules that can sleep, by path, and the units that must all be frozen for it.
    """

    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], units: Sequence[Unit], awake: Collection[str] = ()
    ) -> None:
        self._model = model
        self._modules = modules
        self.owners = _owners(modules, units, awake)
        self._asleep: dict[str, _Sleeper | _Hushed] = {}

    def set(self, frozen: Collection[str]) -> None:
        """Exactly the modules of these units sleep from now on."""
        for path, owners in self.owners.items():
            asleep = owners.issubset(frozen)
            if asleep and path not in self._asleep:
                module = self._modules[path]
                recurrent = isinstance(module, nn.RNNBase)
                self._asleep[path] = _Hushed(module) if recurrent else _Sleeper(self._model, module)
            elif not asleep and path in self._asleep:
                self._asleep.pop(path).wake()


class _Sleeper:
    """One module that sleeps. Whether it wakes up: not if the user holds it in eval mode while the model trains."""

    def __init__(self, model: nn.Module, module: nn.Module) -> None:
        self._model = model
        self._module = module
        self._wakes = module.training
        module.training = False
        # before all others: spectral norm iterates in such a hook, if it finds the module training
        self._hooks = [module.register_forward_pre_hook(fall_asleep, prepend=True)]
        if not model.training:  # during an evaluation all are in eval mode: the next training pass shows who is held
            self._hooks.append(module.register_forward_pre_hook(ModuleHook(self._look), prepend=True))

    def _look(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        if self._model.training:
            self._wakes = module.training
            self._hooks.pop().remove()

    def wake(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._module.training = self._model.training and (self._wakes or self._module.training)


class _Hushed:
    """A recurrent layer, without dropout between its layers. It does not sleep: cuDNN's goes backward in training mode
    alone, which a frozen one must where something before it is trained. What is frozen computes the same in both."""

    def __init__(self, module: nn.Module) -> None:
        self._module: Any = module
        _hush(module, ())
        self._hook = module.register_forward_pre_hook(ModuleHook(_hush))  # the user may set another rate meanwhile

    def wake(self) -> None:
        self._hook.remove()
        if isinstance(self._module.dropout, _Hush):
            self._module.dropout = self._module.dropout.rate


class _Hush(float):
    """A dropout rate of 0 in the place of the layer's own, which copies and files of the layer get."""

    rate: float

    def __new__(cls, rate: float) -> _Hush:
        self = super().__new__(cls, 0.0)
        self.rate = rate
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> float:
        return self.rate

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self.rate,)


def _hush(module: Any, args: Any) -> None:  # noqa: ARG001
    if not isinstance(module.dropout, _Hush):
        module.dropout = _Hush(module.dropout)


def _fall_asleep(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if module.training:  # setting it is far slower than looking
        module.training = False  # not eval(): children have hooks of their own, or belong to active units


fall_asleep = ModuleHook(_fall_asleep)


def _owners(
    modules: Mapping[str, nn.Module], units: Sequence[Unit], awake: Collection[str]
) -> dict[str, frozenset[str]]:
    """Modules to be held in eval mode, and the units that must all be frozen for it.

    Units' own modules, and containers for the dropout that they call as a function: a container sleeps when all
    units below it do, those that ran in no recorded pass included. Layers of torch's encoder never do, whose dropouts
    are modules: by the first, it tells whether to hand nested tensors to all of them, which none takes in training,
    and whose padding comes out as zeros. Nor do ``awake`` ones and what is around them, which reads what they give.
    """
    owners: dict[str, set[str]] = {}
    for unit in units:
        for path in unit.modules:
            owners.setdefault(path, set()).add(unit.name)
    below = {path: frozenset(names) for path, names in owners.items()}
    nested = {
        f"{path}.layers.{name}".removeprefix(".")
        for path, module in modules.items()
        if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False)
        for name, _ in module.layers.named_children()
    }
    for path, module in modules.items():
        inside = f"{path}." if path else ""
        if any(other == path or other.startswith(inside) for other in awake):
            if not is_torchs(module):
                owners.pop(path, None)
            continue
        if path in owners or path in nested or is_drop(module) or owner_of(path) != path:
            continue
        names = {n for p, units_of in below.items() if p.startswith(inside) for n in units_of}
        if names:
            owners[path] = names
    return {path: frozenset(names) for path, names in owners.items()}
