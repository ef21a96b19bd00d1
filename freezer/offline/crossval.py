"""Leave a network (or a data set) out in turn: the scores of every window by a predictor that never saw its like.

Nothing is chosen on the group that is scored: how long to train and how to calibrate is decided on the other groups'
left-out scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from freezer.offline.train import Prepared, Recipe, fit, logits_of, platt
from freezer.predictor.networks import Predictor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Outcome of leaving each group out in turn.

    Attributes:
        curves: float32 ``(epochs, N)``: raw logit of every example after each epoch, by the predictor that did not see
            its group.
        groups: of each example.
    """

    curves: Tensor
    groups: tuple[str, ...]

    def losses(self, data: Prepared, without: str | None = None) -> list[float]:
        """Weighted log loss after each epoch, over all examples or all but those of one group."""
        kept = torch.tensor([group != without for group in self.groups])
        losses = binary_cross_entropy_with_logits(
            self.curves[:, kept], data.labels[kept].expand(len(self.curves), -1), reduction="none"
        )
        weights = data.weights[kept]
        return ((losses * weights).sum(1) / weights.sum()).tolist()

    def best_epoch(self, data: Prepared, without: str | None = None) -> int:
        """Index of the epoch with the least loss."""
        losses = self.losses(data, without)
        return min(range(len(losses)), key=losses.__getitem__)


def leave_one_out(
    architecture: str, config: dict[str, object], data: Prepared, recipe: Recipe, groups: Sequence[str]
) -> LeftOut:
    """Train without each group in turn and score it.

    Args:
        groups: of each example, e.g. its network or its data set.

    Raises:
        ValueError: fewer than two groups.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"leaving one out needs at least two networks or data sets, the corpus has {names}")
    curves = torch.zeros(recipe.epochs, len(data.labels))
    for name in names:
        inside = torch.tensor([group == name for group in groups])
        held, rest = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        held_data = data.select(held)

        def score(epoch: int, predictor: Predictor, rows: Tensor = held, part: Prepared = held_data) -> None:
            curves[epoch - 1, rows] = logits_of(predictor, part)

        fit(architecture, config, data.select(rest), recipe, recipe.epochs, score)
    return LeftOut(curves, tuple(groups))


def honest_probabilities(left_out: LeftOut, data: Prepared) -> Tensor:
    """Calibrated probabilities float32 ``(N,)``: for each group, epoch and Platt scaling come from the other groups.

    Their scores are by predictors that had the group in training; only leaving two out at once would be blind to that.
    """
    result = torch.zeros(len(data.labels))
    names = sorted(set(left_out.groups))
    for name in names:
        inside = torch.tensor([group == name for group in left_out.groups])
        logits = left_out.curves[left_out.best_epoch(data, name)]
        scale, shift = platt(logits[~inside], data.labels[~inside], data.weights[~inside]).tolist()
        result[inside] = torch.sigmoid(logits[inside] * scale + shift)
    return result


def train(
    architecture: str, config: dict[str, object], data: Prepared, recipe: Recipe, groups: Sequence[str]
) -> tuple[Predictor, LeftOut]:
    """A predictor for use on networks that nobody has seen: trained on everything, for as long as was best on the
    groups left out in turn, calibrated on their scores."""
    left_out = leave_one_out(architecture, config, data, recipe, groups)
    best = left_out.best_epoch(data)
    predictor = fit(architecture, config, data, recipe, best + 1)
    predictor.platt.copy_(platt(left_out.curves[best], data.labels, data.weights))
    return predictor.eval(), left_out
