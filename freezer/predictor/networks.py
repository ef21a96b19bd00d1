"""Three predictors behind one interface: windows in, one logit each out, and a calibrated probability.

``smartfrz``: attention over time on scale-free tokens. ``smartfrz-paper``: the architecture of Li et al. (ICLR 2023) as
re-implemented in the public repository Ktuzinowski/MambaFRZ, on raw weights. ``progress-only``: the control.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from freezer.errors import PredictorError
from freezer.predictor import features
from freezer.predictor.features import Window

PAPER_WINDOW, PAPER_SAMPLES = 30, 1024
PRIOR_TERMS = 5
POOLS = ("attention", "mean", "newest")
BESIDE = ("context", "all", "none")


class Predictor(nn.Module):
    """Base: what is stored beside the weights, and the calibration (Platt: ``sigmoid(scale * logit + shift)``)."""

    architecture: ClassVar[str]
    platt: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        """The inputs of :meth:`forward` for a batch of windows.

        Raises:
            PredictorError: a window that this architecture cannot read.
        """
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """Raw logits, float32 ``(B,)``."""
        raise NotImplementedError

    def calibrated(self, logits: Tensor) -> Tensor:
        """Probabilities of raw logits, float32 ``(B,)``."""
        return torch.sigmoid(logits * self.platt[0] + self.platt[1])

    @torch.inference_mode()
    def probabilities(self, windows: Sequence[Window]) -> list[float]:
        """Calibrated probability of having converged, one per window. Touches no global state."""
        if not windows:
            return []
        return [float(p) for p in self.calibrated(self(*self.prepare(windows)))]


class AttentionPredictor(Predictor):
    """Multi-head attention over time: the newest token asks, all tokens of the window answer.

    Config: ``width``, ``heads``, ``dropout``; ``linear``: what the logistic model beside it reads, ``context``, or for
    comparison ``all`` (the tokens too) or ``none``;
    ``context``: names of what else is read, of :data:`freezer.predictor.features.CONTEXT_NAMES`, or a bool for all or
    none; ``pool``: ``attention``, or for comparison ``mean`` (over time) or ``newest``.
    """

    architecture = "smartfrz"
    mean: Tensor
    spread: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        width, heads, dropout = int(config["width"]), int(config["heads"]), float(config["dropout"])
        if width % heads:
            raise PredictorError(f"width {width} is not a multiple of {heads} heads")
        wanted = config["context"]
        names = (features.CONTEXT_NAMES if wanted else ()) if isinstance(wanted, bool) else tuple(wanted)
        unknown = [name for name in names if name not in features.CONTEXT_NAMES]
        self.heads, self.pool = heads, str(config.get("pool", "attention"))
        self.beside = str(config.get("linear", "context"))
        if unknown or self.pool not in POOLS or self.beside not in BESIDE:
            raise PredictorError(f"no such context, pool or linear part: {unknown or (self.pool, self.beside)}")
        self.context = [features.CONTEXT_NAMES.index(name) for name in names]
        extra = len(self.context)
        # Standardisation of the inputs, fitted on the training windows: tokens first, then the context.
        self.register_buffer("mean", torch.zeros(features.TOKENS + features.CONTEXT))
        self.register_buffer("spread", torch.ones(features.TOKENS + features.CONTEXT))
        self.embed = nn.Sequential(
            nn.Linear(features.TOKENS, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Sequential(
            nn.Linear(2 * width + extra, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )
        # What the clock and the depth alone say, beside which the weights are the evidence.
        self.prior = nn.Linear(PRIOR_TERMS, 1) if {"progress", "depth"} <= set(names) else None
        # A logistic model, which generalises best from few numbers; the attention adds what it cannot say.
        beside = {"context": extra, "all": 2 * features.TOKENS + extra, "none": 0}[self.beside]
        self.linear = nn.Linear(beside, 1) if beside else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        if self.prior is not None:  # training starts from the prior alone and adds only what the weights teach
            last = self.head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def fit_scale(self, tokens: Tensor, mask: Tensor, contexts: Tensor) -> None:
        """Set the standardisation from training windows; shapes as :func:`freezer.predictor.features.batch`."""
        rows = tokens[mask]
        self.mean.copy_(torch.cat([rows.mean(0), contexts.mean(0)]))
        self.spread.copy_(torch.cat([rows.std(0), contexts.std(0)]).clamp_min(1e-3))

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        return features.batch(windows)

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens, mask, contexts = inputs
        cut = features.TOKENS
        # Clamped: one unit with an odd scale must not leave the range seen in training.
        tokens = ((tokens - self.mean[:cut]) / self.spread[:cut]).clamp(-5, 5)
        x = self.embed(tokens)
        around = ((contexts - self.mean[cut:]) / self.spread[cut:]).clamp(-5, 5)[:, self.context]
        logits: Tensor = self.head(torch.cat([self._over_time(x, mask), x[:, -1], around], 1)).squeeze(1)
        if self.linear is not None:
            all_tokens = [tokens[:, -1], _mean(tokens, mask)] if self.beside == "all" else []
            logits = logits + self.linear(torch.cat([*all_tokens, around], 1)).squeeze(1)
        if self.prior is None:
            return logits
        prior: Tensor = self.prior(prior_terms(contexts[:, 0], contexts[:, 1])).squeeze(1)
        return logits + prior

    def _over_time(self, x: Tensor, mask: Tensor) -> Tensor:
        """One vector ``(B, width)`` of the tokens ``(B, L, width)``."""
        size, length, width = x.shape
        if self.pool == "newest":
            return x[:, -1]
        if self.pool == "mean":
            return _mean(x, mask)
        each = width // self.heads
        query = self.query(x[:, -1]).view(size, self.heads, 1, each)
        key = self.key(x).view(size, length, self.heads, each).transpose(1, 2)
        value = self.value(x).view(size, length, self.heads, each).transpose(1, 2)
        scores = (query * key).sum(-1) / math.sqrt(each)
        attention = scores.masked_fill(~mask[:, None, :], -torch.inf).softmax(-1)
        pooled: Tensor = (attention[..., None] * value).sum(2).reshape(size, width)
        return pooled


class PaperPredictor(Predictor):
    """1,037,122 parameters: three MLPs 1024-256-256-64 for key, query and value; the newest snapshot asks the 29 before
    it by an unscaled dot product; head 64-32-32-2. The logit is the difference of the two outputs."""

    architecture = "smartfrz-paper"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.query, self.key, self.value = (_mlp(PAPER_SAMPLES, 256, 256, 64) for _ in range(3))
        self.head = _mlp(64, 32, 32, 2)

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        for window in windows:
            if tuple(window.values.shape) != (PAPER_WINDOW, PAPER_SAMPLES):
                shape = " x ".join(str(size) for size in window.values.shape)
                raise PredictorError(f"the paper's predictor reads windows of 30 x 1024, not {shape}")
        return (torch.stack([window.values.to(torch.float32) for window in windows]),)

    def forward(self, *inputs: Tensor) -> Tensor:
        (values,) = inputs
        query, key, value = self.query(values[:, -1:]), self.key(values[:, :-1]), self.value(values[:, :-1])
        # Summed over the features only: summing over the batch too would tie the windows of a batch together.
        attention = (query * key).sum(-1).softmax(-1)
        outputs = self.head((attention[..., None] * value).sum(1))
        return outputs[:, 1] - outputs[:, 0]  # type: ignore[no-any-return]


class ProgressPredictor(Predictor):
    """The control: a logistic model that sees progress and depth, and nothing of the weights."""

    architecture = "progress-only"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.linear = nn.Linear(PRIOR_TERMS, 1)

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        return (torch.tensor([[window.progress, window.depth] for window in windows]),)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.linear(prior_terms(*inputs[0].unbind(1))).squeeze(1)  # type: ignore[no-any-return]


class LinearPredictor(Predictor):
    """For comparison: a logistic model of the newest token, the tokens' mean over time, and the context."""

    architecture = "linear"

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.linear = nn.Sequential(
            nn.BatchNorm1d(2 * features.TOKENS + features.CONTEXT, affine=False, momentum=None),
            nn.Linear(2 * features.TOKENS + features.CONTEXT, 1),
        )

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        return features.batch(windows)

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens, mask, contexts = inputs
        logits: Tensor = self.linear(torch.cat([tokens[:, -1], _mean(tokens, mask), contexts], 1)).squeeze(1)
        return logits


ARCHITECTURES: dict[str, type[Predictor]] = {
    kind.architecture: kind for kind in (AttentionPredictor, PaperPredictor, ProgressPredictor, LinearPredictor)
}


def _mean(rows: Tensor, mask: Tensor) -> Tensor:
    """Mean over time ``(B, D)`` of ``(B, L, D)``, padding left out."""
    mean: Tensor = (rows * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return mean


def prior_terms(progress: Tensor, depth: Tensor) -> Tensor:
    """Second-order terms of progress and depth, each ``(B,)``: float32 ``(B, PRIOR_TERMS)``."""
    return torch.stack([progress, depth, progress * depth, progress.square(), depth.square()], 1)


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(before, after), *([nn.ReLU()] if index < len(sizes) - 2 else [])]
    return nn.Sequential(*layers)
