"""``egeria``: the front block freezes once its activations stop moving against an int8 reference model.

Source: Wang, Sun, Chen, Lin, Zhang et al., "Egeria: Efficient DNN Training with Knowledge-Guided Layer Freezing"
(EuroSys 2023). No code is public; plasticity is the similarity-preserving loss of Tung & Mori (ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.config import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.policies.replica import Int8, Probe, Replica, tensors_of, to_probe
from freezer.similarity import similarity_preserving_loss
from freezer.units import Unit

DROP = 10.0
"""Fall of the learning rate since the last (re)start that thaws everything."""


def smoothed(series: Sequence[float], window: int) -> list[float]:
    """Moving average: the mean of up to ``window`` values that end at each position."""
    parts = [series[max(0, end - window) : end] for end in range(1, len(series) + 1)]
    return [sum(part) / len(part) for part in parts]


def slope(values: Sequence[float]) -> float:
    """Least-squares slope over equally spaced values, as a share of their mean; 0 where the mean is 0."""
    count = len(values)
    middle, mean = (count - 1) / 2.0, sum(values) / count
    if mean == 0.0:
        return 0.0
    rise = sum((x - middle) * (y - mean) for x, y in enumerate(values))
    return rise / sum((x - middle) ** 2 for x in range(count)) / mean


class EgeriaPolicy(Defaults):
    """At each stage: plasticity of the front block (the first not frozen), its slope, and a verdict on that block.

    Options: ``window`` (3) stages of the moving average and of the slope, ``patience`` (2) stages below ``tolerance``
    (0.2), ``reference_every`` (1) stages between two reference models. Plasticity is measured before the reference is
    renewed, so that it always spans at least one stage. When the learning rate has fallen by 10x since the last
    (re)start, everything thaws, and window and patience are halved.

    Deviations: activations are those of one fixed batch (the first of the run) in eval mode and float32 or the
    weights' own type without autocast, not of each training batch; the tolerance is relative to the mean plasticity of
    the window, since losses of different layers differ by magnitudes; int8 is simulated: weights of two or more axes
    are rounded and multiplied as floats, activations are not rounded. The slope may begin in the first, shorter
    averages, since a run has few stages. The last block is never frozen.
    """

    name = "egeria"

    def __init__(self, config: FreezeConfig) -> None:
        self.window: int = config.options.get("window", 3)
        self.patience: int = config.options.get("patience", 2)
        self.tolerance = float(config.options.get("tolerance", 0.2))
        self.reference_every: int = config.options.get("reference_every", 1)
        self.series: list[float] = []
        self._front: str | None = None
        self._calm = 0
        self._top_rate = 0.0
        self._age = 0
        self._rounded: dict[str, Int8] = {}
        self._exact: dict[str, Tensor] = {}
        self._probe: Probe | None = None
        self._model: nn.Module | None = None
        self._replica: Replica | None = None

    def watch(self, model: nn.Module, optimizer: Optimizer, units: Sequence[Unit], example: Probe) -> None:
        """Copy model and example to the CPU; after a resume the probe is the one of the checkpoint."""
        del optimizer
        if self._probe is None:
            self._probe = (tuple(to_probe(list(example[0]))), to_probe(example[1]))
        self._model = model
        self._replica = Replica(model, [unit for unit in units if unit.used], self._probe)

    def collect(self, step: int) -> Mapping[str, Any]:
        """All parameters and buffers as they are now, on the CPU."""
        del step
        if self._model is None:
            return {}
        return {"weights": {n: t.detach().to("cpu", copy=True) for n, t in tensors_of(self._model).items()}}

    def decide(self, context: PolicyContext) -> list[Verdict]:
        weights: Mapping[str, Tensor] | None = context.extra.get("weights")
        if weights is None or self._replica is None:
            return []
        if self._fell(context.learning_rate):
            self.window, self.patience = max(2, self.window // 2), max(1, self.patience // 2)
            self._turn_to(None)
            self._renew(weights)
            return [Verdict(unit.name, False, thaw=True) for unit in context.units if unit.name in context.frozen]
        front = _front(context)
        if front is None or not self._exact | self._rounded:
            self._renew(weights)
            return []
        block, names = front
        if block != self._front:
            self._turn_to(block)
        self.series.append(self._plasticity(self._replica, weights, block))
        self._age += 1
        if self._age >= self.reference_every:
            self._renew(weights)
        return [Verdict(name, True) for name in names] if self._settled() else []

    def _fell(self, rate: float) -> bool:
        self._top_rate = max(self._top_rate, rate)
        fell = self._top_rate > 0.0 and rate <= self._top_rate / DROP * (1.0 + 1e-9)
        if fell:
            self._top_rate = rate
        return fell

    def _turn_to(self, block: str | None) -> None:
        self._front, self._calm, self.series = block, 0, []

    def _settled(self) -> bool:
        averages = smoothed(self.series, self.window)[-self.window :]
        flat = len(averages) == self.window and abs(slope(averages)) <= self.tolerance
        self._calm = self._calm + 1 if flat else 0
        return self._calm >= self.patience

    def _plasticity(self, replica: Replica, weights: Mapping[str, Tensor], block: str) -> float:
        now = replica.activation(weights, block)
        reference = {**self._exact, **{name: rounded.back() for name, rounded in self._rounded.items()}}
        return similarity_preserving_loss(now, replica.activation(reference, block))

    def _renew(self, weights: Mapping[str, Tensor]) -> None:
        """A new reference: weights of layers in int8, biases, norms and buffers as they are."""
        trained = {name for name, _ in self._replica.module.named_parameters()} if self._replica else set()
        rounds = {n for n, t in weights.items() if n in trained and t.dim() >= 2 and t.is_floating_point()}
        self._rounded = {name: Int8.of(weights[name]) for name in rounds}
        self._exact = {name: tensor for name, tensor in weights.items() if name not in rounds}
        self._age = 0

    def state_dict(self) -> dict[str, Any]:
        """All that decides: probe, reference, plasticities since the front block changed, counters."""
        probe = None if self._probe is None else {"args": self._probe[0], "kwargs": self._probe[1]}
        return {
            "probe": probe,
            "int8": {name: {"values": r.values, "scales": r.scales} for name, r in sorted(self._rounded.items())},
            "exact": dict(self._exact),
            "age": self._age,
            "series": list(self.series),
            "front": self._front,
            "calm": self._calm,
            "top_rate": self._top_rate,
            "window": self.window,
            "patience": self.patience,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        probe = state["probe"]
        self._probe = None if probe is None else (tuple(probe["args"]), dict(probe["kwargs"]))
        if self._replica is not None and self._probe is not None:
            self._replica.probe = self._probe
        self._rounded = {name: Int8(held["values"], held["scales"]) for name, held in state["int8"].items()}
        self._exact = dict(state["exact"])
        self._age, self._calm = int(state["age"]), int(state["calm"])
        self.series, self._front = [float(value) for value in state["series"]], state["front"]
        self._top_rate = float(state["top_rate"])
        self.window, self.patience = int(state["window"]), int(state["patience"])


def _front(context: PolicyContext) -> tuple[str, list[str]] | None:
    """First block, but for the last, with units that are neither frozen nor pinned, and the names of those."""
    pins = context.config.pin
    blocks: dict[str, list[str]] = {}
    for unit in context.units:
        pinned = any(pin in (unit.name, unit.block) or fnmatchcase(unit.name, pin) for pin in pins)
        if unit.block != context.units[-1].block and unit.name not in context.frozen and not pinned:
            blocks.setdefault(unit.block, []).append(unit.name)
    return next(iter(blocks.items()), None)
