"""What one forward pass stores for its backward pass: measured on the real model, by storage and by unit.

Every tensor that autograd saves is seen by ``torch.autograd.graph.saved_tensors_hooks``. Parameters, buffers and the
model's inputs are there anyway and do not count. What a non-reentrant checkpoint keeps is not seen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freezer.trace import clean_name, tensors_in, untouched
from freezer.units import Unit


@dataclass(frozen=True, slots=True)
class Use:
    """One operation that saved a storage.

    Attributes:
        time: how many executions of units' modules had begun.
        unit: whose module was running, or ran last; "" for modules of no unit.
        weight_only: saved for the unit's weight gradient alone; not saved while the unit is frozen.
    """

    time: int
    unit: str
    weight_only: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """Storages saved in one forward pass.

    Attributes:
        storages: bytes of each, and who saved it, in order.
        runs: times at which each unit's modules began to run, in order.
    """

    storages: tuple[tuple[int, tuple[Use, ...]], ...]
    runs: Mapping[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(size for size, _ in self.storages)

    def by_unit(self) -> dict[str, int]:
        """Bytes by the unit that saved first; they add up to :attr:`total`. Key "" is what no unit saved."""
        found: dict[str, int] = {}
        for size, uses in self.storages:
            found[uses[0].unit] = found.get(uses[0].unit, 0) + size
        return found

    def bytes(self, frozen: Collection[str]) -> int:
        """Bytes that are stored while ``frozen`` units are frozen.

        Nothing before the first active unit is stored. Behind it, a frozen unit gives back only what its weight
        gradient alone needed, and that is known of linear layers: elsewhere the figure is a bound from above.
        """
        first = self._first(frozen)
        return sum(
            size
            for size, uses in self.storages
            if any(use.time >= first and not (use.weight_only and use.unit in frozen) for use in uses)
        )

    def exact(self, frozen: Collection[str]) -> bool:
        """Whether no frozen unit runs behind an active one, so that :meth:`bytes` is no mere bound."""
        first = self._first(frozen)
        return all(time < first for name in frozen for time in self.runs.get(name, ()))

    def _first(self, frozen: Collection[str]) -> float:
        if not frozen:
            return 0
        return min((times[0] for name, times in self.runs.items() if name not in frozen and times), default=0)


def measure_saved(
    model: nn.Module, units: Sequence[Unit], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> Saved:
    """Run ``model(*args, **kwargs)`` once with gradients, in the modes that it is in, and note what is saved.

    Random state, buffers, modes and gradients are as before afterwards. A model with SyncBatchNorm communicates in
    training mode: then all ranks must measure together.
    """
    watcher = _Watcher(model, units, [*args, *(kwargs or {}).values()])
    modes = [(module, module.training) for module in model.modules()]
    with untouched(model, args, kwargs or {}):
        for module, training in modes:  # not eval: batch norm and dropout save other things in training
            module.training = training
        try:
            watcher.hook()
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(watcher.pack, lambda tensor: tensor):
                output = model(*args, **(kwargs or {}))
            del output
        finally:
            watcher.unhook()
    return watcher.saved()


class _Watcher:
    """Knows at each moment whose module is running."""

    def __init__(self, model: nn.Module, units: Sequence[Unit], inputs: Sequence[Any]) -> None:
        self._model = model
        self._unit_of = {path: unit.name for unit in units for path in unit.modules}
        there = [*model.parameters(), *model.buffers(), *tensors_in(list(inputs))]
        self._there = {storage._cdata for tensor in there for storage in _storage(tensor)}
        self._held: dict[int, tuple[torch.UntypedStorage, list[Use]]] = {}  # holding them keeps addresses unique
        self._runs: dict[str, list[int]] = {unit.name: [] for unit in units}
        self._time = 0
        self._last = ""
        self._stack: list[tuple[str, int]] = []  # unit, and the storage that its linear layer multiplies with weights
        self._handles: list[Any] = []

    def hook(self) -> None:
        for name, module in self._model.named_modules():
            path = clean_name(name)
            if path not in self._unit_of:  # of no unit: a layer that the user froze counts, a container does not
                own = any(True for _ in module.parameters(recurse=False))
                inner = any(True for child in module.children() for _ in child.parameters())
                if inner or not own:
                    continue

            def enter(module: nn.Module, args: Any, path: str = path) -> None:
                self._enter(self._unit_of.get(path, ""), module, args)

            def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
                self._last = self._stack.pop()[0]

            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def unhook(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, unit: str, module: nn.Module, args: Any) -> None:
        if unit:
            self._runs[unit].append(self._time)
        self._time += 1
        multiplied = isinstance(module, nn.Linear) and len(args) > 0 and isinstance(args[0], Tensor)
        keys = [storage._cdata for storage in _storage(args[0])] if multiplied else []
        self._stack.append((unit, keys[0] if keys else 0))

    def pack(self, tensor: Tensor) -> Tensor:
        for storage in _storage(tensor):
            key = storage._cdata
            if key not in self._there:
                unit, multiplied = self._stack[-1] if self._stack else (self._last, 0)
                held = self._held.setdefault(key, (storage, []))
                held[1].append(Use(max(0, self._time - 1), unit, key == multiplied))
        return tensor

    def saved(self) -> Saved:
        storages = tuple((storage.nbytes(), tuple(uses)) for storage, uses in self._held.values())
        return Saved(storages, {name: tuple(times) for name, times in self._runs.items()})


def _storage(tensor: Tensor) -> list[torch.UntypedStorage]:
    """The tensor's storage, or nothing for a sparse one, which is mostly an adjacency that is there anyway."""
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):
        return []
