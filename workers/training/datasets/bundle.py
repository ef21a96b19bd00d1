"""Splits in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.training.batch import Batch, Inputs, Kind, TaskInfo


@dataclass(frozen=True, slots=True)
class Scale:
    """``(x - mean) / std`` per channel or feature, float32, broadcast over one sample."""

    mean: Tensor
    std: Tensor

    def apply(self, values: Tensor) -> Tensor:
        return (values.to(torch.float32) - self.mean) / self.std

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """Of ``(n, channels, h, w)`` over all pixels, or of ``(n, features)``; summed in float64, in order."""
        axes = [axis for axis in range(values.dim()) if axis != 1]
        total = torch.zeros(values.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in torch.split(values, 4096):
            exact = chunk.to(torch.float64)
            total += exact.sum(dim=axes)
            squares += exact.square().sum(dim=axes)
        count = values.numel() / values.shape[1]
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
        std[std < 1e-8] = 1.0  # a constant channel
        shape = (-1,) + (1,) * (values.dim() - 2)
        return cls(mean.to(torch.float32).view(shape), std.to(torch.float32).view(shape))


@dataclass(frozen=True, slots=True)
class Split:
    """Samples and labels.

    Attributes:
        inputs: one tensor (uint8 or float32) or named int64 tensors, first dimension the samples.
        labels: int64 ``(n,)``.
        scale: applied when a batch is made, so that images rest as uint8.
    """

    inputs: Inputs
    labels: Tensor
    scale: Scale | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Batch:
        """The samples at ``indices`` (int64, one dimension), in that order."""
        labels = self.labels.index_select(0, indices)
        if isinstance(self.inputs, dict):
            return Batch({name: value.index_select(0, indices) for name, value in self.inputs.items()}, labels)
        values = self.inputs.index_select(0, indices)
        return Batch(self.scale.apply(values) if self.scale else values.to(torch.float32), labels)

    def subset(self, indices: Tensor) -> Split:
        """A split of the samples at ``indices``, in that order; the data is copied."""
        if isinstance(self.inputs, dict):
            inputs: Inputs = {name: value.index_select(0, indices) for name, value in self.inputs.items()}
        else:
            inputs = self.inputs.index_select(0, indices)
        return Split(inputs, self.labels.index_select(0, indices), self.scale)


@dataclass(frozen=True, slots=True)
class DataBundle:
    """A data set, ready for a loop. ``validation`` was held out of ``train``; ``test`` never is trained on."""

    name: str
    kind: Kind
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: ``(channels, height, width)``, ``(length,)`` or ``(features,)``."""
        inputs = self.train.inputs
        first = inputs["input_ids"] if isinstance(inputs, dict) else inputs
        return tuple(first.shape[1:])

    @property
    def task(self) -> TaskInfo:
        return TaskInfo(self.kind, self.num_classes, self.input_shape)
