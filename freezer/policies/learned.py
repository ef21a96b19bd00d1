"""Policies with a trained predictor: ``smartfrz``, ``smartfrz-paper`` and the control ``progress-only``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.annealing import Annealing
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.predictor.features import Window, drift, to_values
from freezer.predictor.model import load_predictor
from freezer.predictor.networks import Predictor
from freezer.units import Unit

_AT_REST = 0.9
"""Share of a unit's annealing after which it counts as converged: its rate is a fortieth of its first."""


class LearnedPolicy(Defaults):
    """Asks a predictor about every active unit whose window is full; the others get no verdict.

    Half a window is no evidence: weights that the warm-up hardly moves look converged in it.
    """

    def __init__(self, name: str, predictor: Predictor) -> None:
        self.name = name
        self.predictor = predictor

    def decide(self, context: PolicyContext) -> list[Verdict]:
        names, windows = [], []
        last = max(1, len(context.units) - 1)
        rates = self.lr_ratios(context)
        upstream: list[float] = []
        for position, unit in enumerate(context.units):
            snapshots = () if unit.name in context.frozen else context.windows.get(unit.name, ())
            values = to_values(snapshots) if len(snapshots) > 1 else None
            if values is not None and len(snapshots) >= context.config.length:
                names.append(unit.name)
                windows.append(
                    Window(
                        values=values,
                        steps=tuple(snapshot.step for snapshot in snapshots),
                        total_steps=context.total_steps,
                        depth=position / last,
                        lr_ratio=rates[unit.name],
                        upstream=tuple(upstream),
                    )
                )
            upstream.append(0.0 if values is None else float(drift(values[0], values[-1])))
        probabilities = self.predictor.probabilities(windows)
        threshold = context.config.sure
        return [Verdict(name, p > threshold, p) for name, p in zip(names, probabilities, strict=True)]

    def lr_ratios(self, context: PolicyContext) -> Mapping[str, float]:
        """Learning rate of each unit relative to the initial one."""
        ratio = lr_ratio(context.learning_rate, context.initial_learning_rate)
        return dict.fromkeys((unit.name for unit in context.units), ratio)


class AnnealedPolicy(LearnedPolicy):
    """The same predictor where every unit's rate anneals ahead of the run's, first units first.

    What comes to rest early can freeze early and has been trained to an end, not cut off at a high rate. The calendar
    says when a unit is at rest at the latest; the predictor, whether it has converged before.
    """

    def __init__(self, name: str, predictor: Predictor, annealing: Annealing) -> None:
        super().__init__(name, predictor)
        self.annealing = annealing

    def decide(self, context: PolicyContext) -> list[Verdict]:
        now = context.step / max(1, context.total_steps)
        times = self.annealing.times(context.units)
        return [
            replace(said, converged=said.converged or now >= _AT_REST * times.get(said.unit, 1.0))
            for said in super().decide(context)
        ]

    def lr_ratios(self, context: PolicyContext) -> Mapping[str, float]:
        own = self.rates(context.step, context.total_steps, context.units)
        return {**super().lr_ratios(context), **{name: lr_ratio(rate, 1.0) for name, rate in own.items()}}

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        return self.annealing.rates(step, total_steps, units)


def lr_ratio(now: float, initial: float) -> float:
    """Learning rate relative to the initial one, in [0, 1.5]; 1 where a warm-up starts at nothing."""
    return min(1.5, max(0.0, now / initial)) if initial > 0 else 1.0


def from_config(config: FreezeConfig) -> LearnedPolicy:
    """The policy with the shipped weights of its name, or those of ``options.weights``.

    Raises:
        ConfigError: the file given holds another architecture.
        PredictorError: it cannot be read.
    """
    given = config.options.get("weights")
    predictor = load_predictor(given if given is not None else config.policy)
    if predictor.architecture != config.policy:
        raise ConfigError(f"the weights are of a {predictor.architecture!r} predictor", "/options/weights")
    if t0 := float(config.options.get("anneal", 0.0)):
        return AnnealedPolicy(config.policy, predictor, Annealing(t0))
    return LearnedPolicy(config.policy, predictor)
