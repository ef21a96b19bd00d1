"""From a window of sampled weights to scale-free tokens, one per step between two snapshots.

Every number is relative to the unit's own scale or to its own movement, and every summary over the samples ignores
their order: so nothing depends on the network's width, its initialisation or which weights were drawn. Pure functions;
no random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freezer.errors import PredictorError
from freezer.windows import Snapshot

FEATURE_VERSION = 2
"""Raised with every change of meaning: weights made for other features are refused."""

QUANTILES = (0.1, 0.5, 0.75, 0.9, 0.99)
TOKEN_NAMES: tuple[str, ...] = (
    "log_speed",
    "log_speed_to_mean",
    "log_drift_from_oldest",
    "log_distance_to_newest",
    "straightness",
    "cosine_to_previous_update",
    "cosine_to_displacement",
    "sign_flips",
    *(f"update_quantile_{q}" for q in QUANTILES),
    *(f"drift_quantile_{q}" for q in QUANTILES),
    "age",
    "log_tokens",
)
CONTEXT_NAMES: tuple[str, ...] = (
    "progress",
    "depth",
    "lr_ratio",
    "log_span",
    "log_progress",
    "log_remaining",
    "log_lr_ratio",
    "log_interval",
    "log_position",
    "upstream_drift",
    "upstream_peak",
)
"""``upstream_*``: of this unit and all before it, for its output changes when theirs do."""
TOKENS = len(TOKEN_NAMES)
CONTEXT = len(CONTEXT_NAMES)

_TINY = 1e-8
_SOON = 0.02
"""Added to shares before their logarithm is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a predictor may look at for one unit at one moment.

    Attributes:
        values: float32 ``(T, samples)``, oldest snapshot first, ``T >= 2``; row ``t`` holds the same weights always.
        steps: completed optimizer steps at each snapshot, ascending, ``T`` of them.
        total_steps: length of the run.
        depth: position of the unit in execution order, 0 (input) to 1 (head).
        lr_ratio: learning rate now, relative to the peak of the run so far.
        upstream: :func:`drift` over the window of each unit before this one, in execution order; 0 of frozen ones.
    """

    values: Tensor
    steps: tuple[int, ...]
    total_steps: int
    depth: float
    lr_ratio: float
    upstream: tuple[float, ...] = ()

    @property
    def progress(self) -> float:
        return self.steps[-1] / max(1, self.total_steps)


def to_values(snapshots: Sequence[Snapshot]) -> Tensor:
    """Snapshots as float32 ``(T, samples)``.

    Raises:
        PredictorError: the snapshots differ in their number of samples.
    """
    lengths = {len(snapshot) for snapshot in snapshots}
    if len(lengths) != 1:
        raise PredictorError(f"the snapshots of one window differ in samples: {sorted(lengths)}")
    # A writable copy: torch warns about the read-only memory of bytes.
    data = bytearray(b"".join(snapshot.values for snapshot in snapshots))
    return torch.frombuffer(data, dtype=torch.float32).reshape(len(snapshots), -1)


def tokens(window: Window) -> Tensor:
    """Scale-free tokens, float32 ``(T - 1, TOKENS)``, the newest last. A unit that does not move gives finite numbers.

    Raises:
        PredictorError: fewer than two snapshots, or steps that do not match the values.
    """
    values = window.values.to(torch.float32)
    count = values.shape[0]
    if count < 2 or len(window.steps) != count:
        raise PredictorError(f"a window needs two snapshots and one step each, got {count} and {len(window.steps)}")
    values = values / _size(values[0], values[-1])
    updates = values[1:] - values[:-1]
    away = values[1:] - values[0]
    speed = _rms(updates)
    travelled = speed.cumsum(0)
    far = _rms(away)
    previous = torch.cat([updates[:1], updates[:-1]])
    product = updates * previous
    sizes = updates.norm(dim=1)
    span = max(1, window.steps[-1] - window.steps[0])
    age = torch.tensor([(window.steps[-1] - step) / span for step in window.steps[1:]])
    columns = [
        _log(speed),
        _log(speed) - _log(speed.mean()),
        _log(far),
        _log(_rms(values[-1] - values[:-1])),
        far / travelled.clamp_min(_TINY),
        _cosine(product.sum(1), sizes, torch.cat([sizes[:1], sizes[:-1]])),
        _cosine(updates @ away[-1], sizes, away[-1].norm()),
        (product < 0).to(torch.float32).mean(1),
        *_relative_quantiles(updates, speed),
        *_relative_quantiles(away, far),
        age,
        torch.full((count - 1,), math.log(count - 1)),
    ]
    return torch.stack(columns, dim=1)


def drift(oldest: Tensor, newest: Tensor) -> Tensor:
    """How far weights moved from one snapshot to another, relative to their size: ``(..., samples)`` to ``(...)``."""
    return _rms(newest - oldest) / _size(oldest, newest)


def context(window: Window) -> Tensor:
    """Where in the run and in the network, and what moves before the unit: float32 ``(CONTEXT,)``."""
    total = max(1, window.total_steps)
    span = (window.steps[-1] - window.steps[0]) / total
    newest = (window.steps[-1] - window.steps[-2]) / total
    own = float(drift(window.values[0].to(torch.float32), window.values[-1].to(torch.float32)))
    moved = (*window.upstream, own)
    return torch.tensor(
        [
            window.progress,
            window.depth,
            window.lr_ratio,
            math.log(max(span, 1e-4)),
            math.log(window.progress + _SOON),
            math.log(max(0.0, 1.0 - window.progress) + _SOON),
            math.log(window.lr_ratio + _SOON),
            math.log(max(newest, 1e-4)),
            math.log(len(moved)),
            math.log(max(_TINY, math.hypot(*moved))),
            math.log(max(_TINY, *moved)),
        ]
    )


def batch(windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens padded at the front ``(B, L, TOKENS)``, validity mask bool ``(B, L)``, contexts ``(B, CONTEXT)``.

    The newest token is always the last one.
    """
    return pad([tokens(window) for window in windows], [context(window) for window in windows])


def pad(rows: Sequence[Tensor], contexts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`batch` for tokens and contexts that were computed before."""
    length = max(row.shape[0] for row in rows)
    padded = torch.zeros(len(rows), length, TOKENS)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        padded[index, length - row.shape[0] :] = row
        mask[index, length - row.shape[0] :] = True
    return padded, mask, torch.stack(list(contexts))


def _rms(rows: Tensor) -> Tensor:
    return rows.square().mean(-1).sqrt()


def _size(oldest: Tensor, newest: Tensor) -> Tensor:
    return torch.maximum(_rms(oldest), _rms(newest)).clamp_min(_TINY)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(_TINY).log()


def _cosine(product: Tensor, *norms: Tensor) -> Tensor:
    return product / (norms[0] * norms[1]).clamp_min(_TINY * _TINY)


def _relative_quantiles(rows: Tensor, size: Tensor) -> list[Tensor]:
    """Quantiles of the magnitudes relative to their root mean square ``size``, each ``(T - 1,)``."""
    magnitudes = rows.abs().numpy()
    magnitudes.sort(axis=1)  # the same values as torch's sort, in an eighth of its time: it carries no indices along
    last = rows.shape[1] - 1
    chosen = torch.from_numpy(magnitudes[:, [round(q * last) for q in QUANTILES]])
    return list((chosen / size.clamp_min(_TINY)[:, None]).unbind(1))
