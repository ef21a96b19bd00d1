"""Train a predictor: AdamW on windows of some networks, length of training chosen on networks left out in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from freezer.offline.windows import Example
from freezer.predictor.networks import ARCHITECTURES, AttentionPredictor, PaperPredictor, Predictor

DEFAULTS: dict[str, dict[str, object]] = {
    "smartfrz": {"width": 48, "heads": 4, "dropout": 0.1, "context": True},
    "smartfrz-paper": {},
    "progress-only": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a predictor is trained. Epochs are the most that are tried; the best on left-out networks is taken."""

    epochs: int = 20
    batch_size: int = 256
    lr: float = 2e-4
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples as tensors: inputs of the network (first axis: example), labels float32 and weights float32 ``(N,)``."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    weights: Tensor
    networks: tuple[str, ...]

    def select(self, rows: Tensor) -> Prepared:
        chosen = tuple(self.networks[int(row)] for row in rows)
        return Prepared(tuple(i[rows] for i in self.inputs), self.labels[rows], self.weights[rows], chosen)


def prepare(architecture: str, config: dict[str, object], examples: Sequence[Example]) -> Prepared:
    """Compute features once. Every network weighs the same, however many windows it brought."""
    with torch.device("meta"):  # draws no random numbers
        reader = ARCHITECTURES[architecture](config)
    inputs = reader.prepare([example.window for example in examples])
    names = [example.network for example in examples]
    counts = {name: names.count(name) for name in set(names)}
    weights = torch.tensor([len(names) / (len(counts) * counts[name]) for name in names])
    labels = torch.tensor([float(example.label) for example in examples])
    return Prepared(inputs, labels, weights, tuple(names))


def new_predictor(architecture: str, config: dict[str, object], data: Prepared, seed: int) -> Predictor:
    """A fresh predictor, standardised on ``data``; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = ARCHITECTURES[architecture](config)
    if isinstance(predictor, AttentionPredictor):
        predictor.fit_scale(*data.inputs)
    return predictor


def fit(
    architecture: str,
    config: dict[str, object],
    data: Prepared,
    recipe: Recipe,
    epochs: int,
    each_epoch: Callable[[int, Predictor], None] | None = None,
) -> Predictor:
    """Train for ``epochs``; ``each_epoch(done, predictor)`` is called in eval mode after each."""
    predictor = new_predictor(architecture, config, data, recipe.seed)
    # The few terms of progress and depth may run to their optimum, in the control and beside the attention alike.
    few = [p for name, p in predictor.named_parameters() if name.startswith(("prior.", "linear."))]
    rest = [p for name, p in predictor.named_parameters() if not name.startswith(("prior.", "linear."))]
    parts = [(params, rate) for params, rate in ((few, 0.05), (rest, recipe.lr)) if params]
    optimizer = torch.optim.AdamW(
        [{"params": params, "lr": rate} for params, rate in parts], weight_decay=recipe.weight_decay
    )
    count = len(data.labels)
    total = recipe.epochs * -(-count // recipe.batch_size)
    rates = [rate for _, rate in parts]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total + 1, pct_start=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for epoch in range(1, epochs + 1):
            predictor.train()
            for rows in torch.split(torch.randperm(count), recipe.batch_size):
                logits = predictor(*(i[rows] for i in data.inputs))
                losses = binary_cross_entropy_with_logits(logits, data.labels[rows], reduction="none")
                loss = (losses * data.weights[rows]).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(predictor.parameters(), recipe.grad_clip)
                optimizer.step()
                schedule.step()
            predictor.eval()
            if each_epoch is not None:
                each_epoch(epoch, predictor)
    return predictor


@torch.no_grad()
def logits_of(predictor: Predictor, data: Prepared) -> Tensor:
    """Raw logits ``(N,)`` in eval mode."""
    predictor.eval()
    pieces = [predictor(*(i[rows] for i in data.inputs)) for rows in torch.split(torch.arange(len(data.labels)), 1024)]
    return torch.cat(pieces)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Outcome of leaving each network out in turn.

    Attributes:
        losses: weighted log loss on left-out networks after each epoch.
        epochs: the epoch with the least.
        logits: of every example by the predictor that did not see its network, at that epoch.
    """

    losses: list[float]
    epochs: int
    logits: Tensor


def leave_one_network_out(architecture: str, config: dict[str, object], data: Prepared, recipe: Recipe) -> LeftOut:
    """Train without each network in turn and score it.

    Raises:
        ValueError: fewer than two networks.
    """
    names = sorted(set(data.networks))
    if len(names) < 2:
        raise ValueError(f"leaving a network out needs at least two, the corpus has {names}")
    scores = torch.zeros(recipe.epochs, len(data.labels))
    for name in names:
        inside = torch.tensor([network == name for network in data.networks])
        held, rest = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        held_data = data.select(held)

        def score(epoch: int, predictor: Predictor, rows: Tensor = held, part: Prepared = held_data) -> None:
            scores[epoch - 1, rows] = logits_of(predictor, part)

        fit(architecture, config, data.select(rest), recipe, recipe.epochs, score)
    losses = [_log_loss(row, data) for row in scores]
    best = min(range(recipe.epochs), key=losses.__getitem__)
    return LeftOut(losses, best + 1, scores[best])


def calibrate(predictor: Predictor, logits: Tensor, data: Prepared) -> None:
    """Platt scaling on scores of left-out networks: the predictor's own training windows would make it too sure."""
    platt = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([platt], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = binary_cross_entropy_with_logits(logits * platt[0] + platt[1], data.labels, reduction="none")
        # A little pull to the identity: without it separable scores give endless confidence.
        loss = (losses * data.weights).mean() + 1e-3 * ((platt[0] - 1) ** 2 + platt[1] ** 2)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    # A negative slope would turn the ranking round: then the scores say nothing, and the base rate is the honest word.
    predictor.platt.copy_(torch.stack([platt[0].clamp_min(0.0), platt[1]]).detach())


def train(
    architecture: str, config: dict[str, object], examples: Sequence[Example], recipe: Recipe
) -> tuple[Predictor, LeftOut]:
    """The whole recipe: choose the epochs on left-out networks, train on all, calibrate on left-out scores."""
    data = prepare(architecture, config, examples)
    left_out = leave_one_network_out(architecture, config, data, recipe)
    predictor = fit(architecture, config, data, recipe, left_out.epochs)
    calibrate(predictor, left_out.logits, data)
    return predictor.eval(), left_out


def window_length(architecture: str) -> int | None:
    """The one window length that an architecture reads, or ``None`` for any."""
    return 30 if architecture == PaperPredictor.architecture else None


def _log_loss(logits: Tensor, data: Prepared) -> float:
    losses = binary_cross_entropy_with_logits(logits, data.labels, reduction="none")
    return float((losses * data.weights).mean())
