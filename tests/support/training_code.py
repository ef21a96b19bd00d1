"""User code for the tests of training: a small network with BatchNorm and Dropout, and data that it can learn."""

from __future__ import annotations

from pathlib import Path

import torch
from ballast import fill
from torch import nn

from workers.jobs.layout import Control, write_atomic


def model(num_classes: int, raises: bool = False, drain_at_test: str = "") -> nn.Module:
    """``drain_at_test``: a control file; the order is written when the model first sees a test split of ``blobs``."""
    if raises:
        raise RuntimeError("this network cannot be built")
    net = network(num_classes)

    def look(net: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if not net.training and len(inputs[0]) > 60:
            write_atomic(Path(drain_at_test), Control(action="drain").model_dump_json())

    if drain_at_test:
        net.register_forward_pre_hook(look)
    return net


def network(num_classes: int) -> nn.Module:
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


def blobs(samples: int = 203, classes: int = 3, ballast: str = "") -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Two splits of ``samples`` points (8,) around one centre for each class.

    ``ballast``: a file that is made as large as its disk, if it is there.
    """
    if ballast and Path(ballast).exists():
        fill(Path(ballast))
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(classes, 8, generator=generator)
    parts = []
    for _ in range(2):
        labels = torch.arange(samples) % classes
        parts.append((centres[labels] + 0.4 * torch.randn(samples, 8, generator=generator), labels))
    return tuple(parts)
