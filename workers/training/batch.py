"""The one contract between data, models and the loop.

``model(*inputs)`` does not exist here: a batch's inputs are one tensor or a dict of named tensors, and the output is
always the logits, float, shape ``(n, num_classes)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from workers.training.errors import ConfigInvalid

Inputs = Tensor | dict[str, Tensor]
Kind = Literal["image", "text", "features"]


class Batch(NamedTuple):
    """Samples of one step.

    ``inputs`` is float32 ``(n, channels, height, width)`` for images, float32 ``(n, features)`` for features, and
    ``{"input_ids", "attention_mask"}``, each int64 ``(n, length)``, for text. ``labels`` is int64 ``(n,)``.
    """

    inputs: Inputs
    labels: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        if isinstance(self.inputs, dict):
            inputs: Inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        else:
            inputs = self.inputs.to(device, non_blocking=True)
        return Batch(inputs, self.labels.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a model must fit.

    Attributes:
        kind: which inputs a batch carries.
        num_classes: width of the logits.
        input_shape: of one sample: ``(channels, height, width)``, ``(length,)`` or ``(features,)``.
    """

    kind: Kind
    num_classes: int
    input_shape: tuple[int, ...]


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits of a batch: ``model(x)`` for a tensor, ``model(**inputs)`` for named tensors."""
    return cast(Tensor, model(**inputs) if isinstance(inputs, dict) else model(inputs))


def check_logits(logits: object, batch: Batch, num_classes: int) -> None:
    """Refuse an output that cannot be trained on; called once, on the first batch.

    Raises:
        ConfigInvalid: not a tensor of shape ``(n, num_classes)``, or labels outside of the classes.
    """
    expected = (len(batch.labels), num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigInvalid(
            f"the model must return logits of shape {expected} for this batch, but it returned {found}: "
            f"the data has {num_classes} classes, so the last layer needs {num_classes} outputs"
        )
    low, high = int(batch.labels.min()), int(batch.labels.max())
    if low < 0 or high >= num_classes:
        raise ConfigInvalid(f"labels lie between {low} and {high}, but the data declares {num_classes} classes")
