"""User code for the tests of training: a small network with BatchNorm and Dropout, and data that it can learn."""

from __future__ import annotations

import torch
from torch import nn


def model(num_classes: int, raises: bool = False) -> nn.Module:
    if raises:
        raise RuntimeError("this network cannot be built")
    return nn.Sequential(
        nn.Linear(8, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(24, 24),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(24, 24),
        nn.ReLU(),
        nn.Linear(24, num_classes),
    )


def blobs(samples: int = 203, classes: int = 3) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Two splits of ``samples`` points (8,) around one centre for each class."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(classes, 8, generator=generator)
    parts = []
    for _ in range(2):
        labels = torch.arange(samples) % classes
        parts.append((centres[labels] + 0.4 * torch.randn(samples, 8, generator=generator), labels))
    return tuple(parts)
