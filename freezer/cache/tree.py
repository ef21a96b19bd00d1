"""Record the call tree of one training pass, and the way to stand in for single calls: ``forward`` on the instance."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from freezer.buffers import kept_buffers
from freezer.trace import clean_name
from freezer.untouched import (
    apart_from_caches,
    cuda_devices,
    hold_inputs,
    kept_inputs,
    kept_randomness,
    numpy_state,
)

Action = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Stands in for one call: gets the real forward and its arguments, returns the output."""


@dataclass(slots=True)
class Leaf:
    """One leaf of an output: a tensor's shape, dtype and device, or a constant (``dtype is None``).

    ``batch`` is ``(dim, k)`` where ``shape[dim]`` is k times the batch size, or ``None``.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    constant: Any = None
    batch: tuple[int, int] | None = None

    def at(self, now: int) -> tuple[int, ...]:
        """The shape for a batch of ``now`` rows."""
        if self.batch is None:
            return self.shape
        dim, k = self.batch
        return (*self.shape[:dim], k * now, *self.shape[dim + 1 :])


@dataclass(slots=True)
class Call:
    """One module call. Times count entries and exits; ``exit`` is -1 for a call that raised. ``moved`` is a buffer of
    the module itself that changed meanwhile."""

    position: int
    path: str
    nth: int
    parent: int
    enter: int
    exit: int = -1
    leaves: list[Leaf] = field(default_factory=list)
    spec: TreeSpec | None = None
    needs_grad: bool = False
    recomputed: bool = False
    moved: str | None = None
    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass(slots=True)
class Record:
    """What one pass did: calls in order of entry, and obstacles as (time, sentence). ``rows`` is its batch size;
    ``buffers`` is what the pass left in the model's. ``moving`` are attributes, as (path, name), that change in each
    pass. ``written``: the pass writes into its inputs."""

    rows: int
    calls: list[Call] = field(default_factory=list)
    obstacles: list[tuple[int, str]] = field(default_factory=list)
    output: Any = None
    buffers: list[Tensor] = field(default_factory=list)
    moving: Collection[tuple[str, str]] = ()
    written: bool = False


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by clean path; a shared module once."""
    return {clean_name(name): module for name, module in model.named_modules()}


@contextmanager
def acting(actions: Mapping[nn.Module, Callable[[int], Action | None]]) -> Iterator[None]:
    """Inside, the n-th call of each module is done by what its function says of n; ``None``: by the module itself."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module, choose in actions.items():
            before.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = _standing_in(module.forward, choose)
        yield
    finally:
        for module, forward in before:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _standing_in(real: Callable[..., Any], choose: Callable[[int], Action | None]) -> Callable[..., Any]:
    count = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        action = choose(count)
        count += 1
        return real(*args, **kwargs) if action is None else action(real, args, kwargs)

    return forward


class Stop(BaseException):
    """Leaves a pass early. Not an ``Exception``, so that no model's ``except`` swallows it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Recorder:
    def __init__(self, model: nn.Module, rows: int, inputs: Sequence[Any]) -> None:
        self.record = Record(rows)
        self._modules = modules_of(model)
        self._time = 0
        self._stack: list[Call] = []
        self._storages: list[StorageWeakRef] = []  # a held weak reference keeps the address from being used again
        self._given = [t for t in tensors(inputs) if not t.is_inference()]
        self._own = {s for t in tensors(inputs) for s in self._hold(t)}
        self._state = random_state(model)
        self._model = model

    def actions(self) -> dict[nn.Module, Callable[[int], Action | None]]:
        return {
            module: partial(self._action, path, module)
            for path, module in self._modules.items()
            if not isinstance(module, torch.jit.ScriptModule)
        }

    def _hold(self, tensor: Tensor) -> list[int]:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse tensors have none
            return []
        self._storages.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        return [storage._cdata]

    def _action(self, path: str, module: nn.Module, nth: int) -> Action:
        def action(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._randomness()
            self._time += 1
            parent = self._stack[-1].position if self._stack else -1
            call = Call(len(self.record.calls), path, nth, parent, self._time)
            call.inputs = frozenset(s for t in tensors((args, kwargs)) for s in self._hold(t)) - self._own
            call.recomputed = _recomputed()
            self.record.calls.append(call)
            self._stack.append(call)
            before = {name: (b, b._version) for name, b in module.named_buffers(recurse=False)}
            given = [t._version for t in self._given]
            try:
                output = real(*args, **kwargs)
            finally:
                while self._stack and self._stack.pop() is not call:
                    pass
            self._randomness(path)
            self._note(call, module, before)
            if given != [t._version for t in self._given]:
                self._obstacle(f"{name_of(path)} writes into the inputs of the model")
            self._time += 1
            call.exit = self._time
            self._describe(call, output)
            return output

        return action

    def _randomness(self, path: str | None = None) -> None:
        state = random_state(self._model)
        if not same_random(state, self._state):
            where = path if path is not None else self._stack[-1].path if self._stack else ""
            self._obstacle(f"{name_of(where)} draws random numbers (dropout in training mode?)")
            self._state = state

    def _note(self, call: Call, module: nn.Module, before: Mapping[str, tuple[Tensor, int]]) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            self._obstacle(f"{name_of(call.path)} normalises with the statistics of the batch (BatchNorm in training)")
        for name, buffer in module.named_buffers(recurse=False):
            known, version = before.get(name, (None, 0))
            if known is not buffer or version != buffer._version:
                call.moved = name
                self._obstacle(f"{name_of(call.path)} changes its buffer {name!r} in each pass")
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(not _harmless(hook) for hook in hooks):
            self._obstacle(f"{name_of(call.path)} has a forward hook, which would no longer see its inputs and outputs")

    def _obstacle(self, sentence: str) -> None:
        self.record.obstacles.append((self._time, sentence))

    def _describe(self, call: Call, output: Any) -> None:
        leaves, call.spec = tree_flatten(output)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                call.leaves.append(Leaf(tuple(leaf.shape), leaf.dtype, leaf.device))
                call.needs_grad |= leaf.requires_grad
            else:
                simple = leaf is None or isinstance(leaf, bool | int | float | str)
                call.leaves.append(Leaf(constant=leaf if simple else None))
        call.outputs = frozenset(s for t in tensors(output) for s in self._hold(t)) - self._own


def record(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], rows: int) -> Record:
    """One pass as in training (flags, gradients, autocast as they are), recorded; nothing about the model changes but
    its plain attributes, nor do the inputs."""
    recorder = _Recorder(model, rows, (args, kwargs))
    undo = hold_inputs(list(args), dict(kwargs))
    with untouched(model), acting(recorder.actions()):
        recorder.record.output = model(*args, **kwargs)
        recorder.record.buffers = buffers_of(model)
        recorder.record.written = undo()
    recorder._randomness("")
    return recorder.record


def find_batch_dims(found: Record, other: Record) -> None:
    """Find the batch dimension of every output by comparing with a pass over another number of rows.

    Where the two passes differ in more, an obstacle is added to ``found``.
    """
    for ours, theirs in zip(found.calls, other.calls, strict=False):
        problem = _compare(ours, theirs, found.rows, other.rows)
        if problem is not None:
            found.obstacles.append((ours.exit - 1, f"{name_of(ours.path)} {problem}"))
        if (ours.path, ours.nth) != (theirs.path, theirs.nth):
            return


def _compare(ours: Call, theirs: Call, rows: int, others: int) -> str | None:
    if (ours.path, ours.nth, ours.spec) != (theirs.path, theirs.nth, theirs.spec):
        return f"does not run alike for {rows} and for {others} rows"
    for leaf, twin in zip(ours.leaves, theirs.leaves, strict=True):
        if len(leaf.shape) != len(twin.shape):
            return "has an output whose rank depends on the number of rows"
        moved = [d for d, (a, b) in enumerate(zip(leaf.shape, twin.shape, strict=True)) if a != b]
        if len(moved) > 1 or any(leaf.shape[d] % rows or leaf.shape[d] * others != twin.shape[d] * rows for d in moved):
            return "has an output without a single batch dimension"
        if moved:
            leaf.batch = (moved[0], leaf.shape[moved[0]] // rows)
    return None


@contextmanager
def untouched(model: nn.Module, *inputs: Any) -> Iterator[None]:
    """Random state, buffers and inputs as before, whatever happens inside. Not plain attributes: the output of a module
    that counts its passes must change with them, or it would be taken for one that can be kept."""
    with kept_buffers(model), kept_randomness(model), apart_from_caches(), kept_inputs(*inputs):
        yield


def buffers_of(model: nn.Module) -> list[Tensor]:
    """Copies of the model's buffers as they are."""
    return [buffer.detach().clone() for buffer in model.buffers()]


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a nest of containers."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def random_state(model: nn.Module) -> tuple[Any, ...]:
    """States of the generators that a pass may draw from."""
    return (
        torch.get_rng_state(),
        (random.getstate(), pickle.dumps(numpy_state())),
        *(torch.cuda.get_rng_state(device) for device in cuda_devices(model)),
    )


def same_random(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether nothing was drawn between two states."""
    return a[1] == b[1] and all(torch.equal(x, y) for x, y in zip((a[0], *a[2:]), (b[0], *b[2:]), strict=True))


def name_of(path: str) -> str:
    """How messages name a module."""
    return f"module {path!r}" if path else "the model itself"


def _recomputed() -> bool:
    """Whether saved tensors are intercepted here, as activation checkpointing does, or gradients are off inside."""
    top: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return top is not None or not torch.is_grad_enabled()


def _harmless(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.split(".", 1)[0] in ("torch", "freezer")
