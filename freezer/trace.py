"""Record one forward pass: which modules ran, when, on what, at how many FLOPs. Leaves the model as it was."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freezer.buffers import kept_buffers
from freezer.flops import flop_counter, split
from freezer.untouched import apart_from_caches, kept_attributes, kept_inputs, kept_randomness

_WRAPPERS = ("module.", "_orig_mod.")
_NORM_NAME = re.compile(r"Norm(\dd)?$|(Batch|Layer|Group|RMS)Norm")
_PARAMETRIZED = ".parametrizations."


def clean_name(name: str) -> str:
    """A parameter's or module's path without the names that DDP and ``torch.compile`` put in front."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return "" if name in ("module", "_orig_mod") else name


def parameters_of(model: nn.Module, *, all_names: bool = False) -> dict[str, nn.Parameter]:
    """The model's parameters by clean name; a tied one by its first, or with ``all_names`` by each of its names."""
    return {clean_name(name): p for name, p in model.named_parameters(remove_duplicate=not all_names)}


def owner_of(path: str) -> str:
    """The layer that a parametrization (weight norm and the like) belongs to; other paths as they are."""
    return f"{path}.".split(_PARAMETRIZED, 1)[0].rstrip(".")


def is_norm(module: nn.Module) -> bool:
    """Whether it normalises: torch's own by type, others (RMSNorm of many libraries) by the name of the class."""
    known = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
    named = _NORM_NAME.search(type(module).__name__) is not None and not any(True for _ in module.children())
    return isinstance(module, known) or named


def is_drop(module: nn.Module) -> bool:
    """Whether it behaves differently in training without owning weights: dropout, drop path, stochastic depth."""
    name = type(module).__name__
    return isinstance(module, nn.modules.dropout._DropoutNd) or (
        ("Drop" in name or name == "StochasticDepth") and not any(True for _ in module.parameters())
    )


@dataclass(slots=True)
class Call:
    """One execution of a module. ``time`` counts events; ``order`` is the time of a layer with weights, else -1."""

    path: str
    time: int
    order: int = -1
    input_order: int = -1
    flops: int = 0
    pair_flops: int = 0
    pair_backward: float = 0.0


@dataclass(slots=True)
class Record:
    """What one forward pass did.

    Attributes:
        calls: executions of layers, norms and dropouts, in order.
        owners: parameters that each module holds itself, by path.
        entered: time of the first entry of every module that ran.
        output_bytes: bytes of each layer's outputs.
    """

    calls: list[Call] = field(default_factory=list)
    owners: dict[str, list[nn.Parameter]] = field(default_factory=dict)
    entered: dict[str, int] = field(default_factory=dict)
    output_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Frame:
    """A module that is running; ``container`` once a layer ran inside."""

    path: str
    call: Call | None
    container: bool = False


class _Recorder:
    """Hooks on every module; FLOPs since the last event go to the layer that is running, or ran last."""

    def __init__(self, model: nn.Module) -> None:
        self.record = Record()
        self.counter = flop_counter()
        self._seen: tuple[int, int, float] = (0, 0, 0.0)
        self._time = 0
        self._stack: list[_Frame] = []
        self._last: Call | None = None
        self._inputs: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._early = (0, 0.0)
        for path, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if own:
                self.record.owners.setdefault(owner_of(clean_name(path)), []).extend(own)
        self._three_dim = {p for p, own in self.record.owners.items() if any(w.dim() == 3 for w in own)}

    def hook(self, model: nn.Module) -> list[Any]:
        handles = []
        for name, module in model.named_modules():
            path = clean_name(name)
            if _PARAMETRIZED in f".{path}." or path.endswith(".parametrizations"):
                continue
            interesting = path in self.record.owners or is_norm(module) or is_drop(module)

            def enter(m: nn.Module, args: Any, kwargs: Any, path: str = path, interesting: bool = interesting) -> None:
                self._enter(path, m, args, kwargs, interesting)

            def leave(m: nn.Module, args: Any, output: Any, path: str = path) -> None:  # noqa: ARG001
                self._leave(path, output)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        return handles

    def _charge(self) -> None:
        now = split(self.counter)
        weighted, pair, backward = (now[0] - self._seen[0], now[1] - self._seen[1], now[2] - self._seen[2])
        self._seen = now
        # the innermost layer, unless layers ran inside of it: then it is a container, and the last of those counts
        frame = next((f for f in reversed(self._stack) if f.call is not None and f.call.order >= 0), None)
        running = frame.call if frame is not None and not frame.container else None
        call = running or self._last
        if call is None:
            self._early = (self._early[0] + weighted + pair, self._early[1] + weighted + backward)
        elif running is not None:
            experts = call.path in self._three_dim  # batched products with a stack of weights
            call.flops += weighted + (pair if experts else 0)
            if not experts:
                call.pair_flops += pair
                call.pair_backward += backward
        else:  # outside of any layer: work on activations alone
            call.pair_flops += weighted + pair
            call.pair_backward += 2.0 * weighted + backward

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any, interesting: bool) -> None:
        self._charge()
        self._time += 1
        self.record.entered.setdefault(path, self._time)
        call: Call | None = None
        if interesting:
            call = Call(path, self._time)
            if path in self.record.owners and not is_norm(module):
                source = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
                call.order, call.input_order = self._time, self._fed(source)
                for frame in self._stack:
                    frame.container = True
                call.pair_flops, call.pair_backward = self._early
                self._early = (0, 0.0)
            self.record.calls.append(call)
        self._stack.append(_Frame(path, call))

    def _fed(self, source: Tensor | None) -> int:
        """Time of the first layer that was given this very tensor."""
        if source is None:
            return self._time
        known = self._inputs.get(id(source))
        if known is not None and known[0]() is source:
            return known[1]
        self._inputs[id(source)] = (weakref.ref(source), self._time)
        return self._time

    def _leave(self, path: str, output: Any) -> None:
        self._charge()
        frame = _Frame("", None)
        while self._stack:  # a frame above it was left by an exception that the model caught
            frame = self._stack.pop()
            if frame.path == path:
                break
        call = frame.call
        if call is None:
            return
        size = sum(t.numel() * t.element_size() for t in tensors_in(output))
        self.record.output_bytes[path] = self.record.output_bytes.get(path, 0) + size
        if call.order >= 0 and frame.container:  # what it was charged itself belongs to the first layer inside
            self.record.calls.remove(call)
            heir = next(c for c in self.record.calls if c.order > call.order)
            heir.pair_flops += call.flops + call.pair_flops
            heir.pair_backward += 2.0 * call.flops + call.pair_backward
        elif call.order >= 0:
            self._last = call


def record_forward(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Record:
    """Run the model once in eval mode under ``no_grad`` and record it."""
    recorder = _Recorder(model)
    handles: list[Any] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    with untouched(model, args, kwargs):
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # the fused path runs no submodule
            handles = recorder.hook(model)
            with torch.no_grad(), recorder.counter:
                model(*args, **kwargs)
                recorder._charge()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for handle in handles:
                handle.remove()
    return recorder.record


@contextmanager
def untouched(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """In eval mode inside. Random state, buffers, plain attributes, training flags and the arguments are as before
    afterwards."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with kept_buffers(model), kept_attributes(model), kept_randomness(model), apart_from_caches():
            with kept_inputs(list(args), dict(kwargs)):
                yield
    finally:
        for module, training in flags:
            module.training = training


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Those in a nest of mappings, lists and tuples, outputs of models among them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
