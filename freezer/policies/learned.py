"""Policies with a trained predictor: ``smartfrz``, ``smartfrz-paper`` and the control ``progress-only``."""

from __future__ import annotations

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.predictor.features import Window, to_values
from freezer.predictor.model import load_predictor
from freezer.predictor.networks import Predictor


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
        ratio = lr_ratio(context.learning_rate, context.initial_learning_rate)
        for position, unit in enumerate(context.units):
            snapshots = context.windows.get(unit.name, ())
            if unit.name in context.frozen or len(snapshots) < context.config.length:
                continue
            names.append(unit.name)
            windows.append(
                Window(
                    values=to_values(snapshots),
                    steps=tuple(snapshot.step for snapshot in snapshots),
                    total_steps=context.total_steps,
                    depth=position / last,
                    lr_ratio=ratio,
                )
            )
        probabilities = self.predictor.probabilities(windows)
        threshold = context.config.sure
        return [Verdict(name, p > threshold, p) for name, p in zip(names, probabilities, strict=True)]


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
    return LearnedPolicy(config.policy, predictor)
