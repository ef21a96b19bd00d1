"""A copy of the model on the CPU, in which a policy looks at activations while the model itself trains on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freezer.errors import ConfigError
from freezer.trace import clean_name
from freezer.units import Unit

Probe = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Int8:
    """A tensor rounded to 8 bits, symmetric, one scale for each output channel (first axis).

    Attributes:
        values: int8 in [-127, 127], the tensor's shape.
        scales: float32 ``(channels, 1, ...)``; the value of one step.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        """Round to nearest; a channel of zeros stays so."""
        wide = weight.detach().to(torch.float32)
        scales = wide.abs().amax(dim=tuple(range(1, wide.dim())), keepdim=True) / 127.0
        safe = torch.where(scales > 0.0, scales, torch.ones_like(scales))
        return cls((wide / safe).round_().clamp_(-127, 127).to(torch.int8), scales)

    def back(self) -> Tensor:
        """float32, the tensor's shape."""
        return self.values.to(torch.float32) * self.scales


class Replica:
    """The model in eval mode on the CPU without its hooks, and the fixed batch that it is run on.

    Raises:
        ConfigError: a model that cannot be copied or run on the CPU, that draws random numbers in eval mode (the draws
            would be taken from training), or whose blocks give no activations of two or more samples.
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit], probe: Probe) -> None:
        self.probe = probe
        self.module = _copy(model)
        self._targets = tensors_of(self.module)
        self._paths: dict[str, set[str]] = {}
        for unit in units:
            self._paths.setdefault(unit.block, {unit.block}).update(unit.modules)
        self._try(list(dict.fromkeys(unit.block for unit in units))[:-1])

    def activation(self, weights: Mapping[str, Tensor], block: str) -> Tensor:
        """Output of the block (of its last module that ran, where it is no module) under these weights."""
        with torch.no_grad():
            for name, target in self._targets.items():
                target.copy_(weights[name])
        return self._run([block])[block]

    def _try(self, blocks: Sequence[str]) -> None:
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            try:
                outputs = self._run(blocks)
            except Exception as error:
                text = f"policy 'egeria' runs a copy of the model on the CPU, which failed: {error!r}"
                raise ConfigError(text, "/policy") from error
            drew = not torch.equal(before, torch.get_rng_state())
        if drew:
            text = "policy 'egeria' cannot be used: the model draws random numbers in eval mode, beside training"
            raise ConfigError(text, "/policy")
        for block in blocks:
            output = outputs.get(block)
            if output is None or output.dim() < 2 or output.shape[0] < 2:
                seen = "nothing" if output is None else f"shape {tuple(output.shape)}"
                text = f"policy 'egeria' needs activations of two or more samples; block {block!r} gave {seen}"
                raise ConfigError(text, "/policy")

    def _run(self, blocks: Iterable[str]) -> dict[str, Tensor]:
        modules = {clean_name(name): module for name, module in self.module.named_modules()}
        outputs: dict[str, Tensor] = {}
        handles = []
        for block in blocks:

            def keep(module: nn.Module, args: Any, output: Any, block: str = block) -> None:
                del module, args
                found = _first_tensor(output)
                if found is not None:
                    outputs[block] = found

            handles += [modules[path].register_forward_hook(keep) for path in self._paths[block] if path in modules]
        try:
            with torch.no_grad():
                args, kwargs = self.probe
                self.module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return outputs


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once; not copied."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def to_probe(value: Any) -> Any:
    """Arguments of a call, with tensors cloned to the CPU, in what a checkpoint can hold.

    Raises:
        ConfigError: an argument of another kind.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_probe(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_probe(item) for item in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    text = f"policy 'egeria' keeps the first batch as its probe, and cannot keep a {type(value).__name__}"
    raise ConfigError(text, "/policy")


def _copy(model: nn.Module) -> nn.Module:
    """On the CPU, in eval mode, without hooks and gradients; the model is only read."""
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        for key, held in vars(module).items():
            if not (key.endswith("hooks") and isinstance(held, dict)):
                continue
            old = next((h for h in held.values() if type(h).__module__.startswith("torch.nn.utils")), None)
            if old is not None:
                text = f"module {name!r} uses {type(old).__name__} as a hook: use torch.nn.utils.parametrizations"
                raise ConfigError(f"policy 'egeria' cannot copy the model: {text}", "/policy")
            memo[id(held)] = type(held)()
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", copy=True), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", copy=True)
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ConfigError(f"policy 'egeria' cannot copy the model: {error!r}", "/policy") from error
    return twin.eval()


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return next((item for item in value if isinstance(item, Tensor)), None) if isinstance(value, list | tuple) else None
