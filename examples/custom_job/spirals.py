"""A model and a data set of your own: points on interleaved spiral arms, told apart by a small network."""

import math

import torch
from torch import Tensor, nn


def model(num_classes: int, width: int = 64, depth: int = 3) -> nn.Module:
    """A perceptron on two coordinates. The service passes ``num_classes`` and the options of the spec."""
    layers: list[nn.Module] = [nn.Linear(2, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def data(
    arms: int = 3, samples: int = 3000, noise: float = 0.02
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(train, test), each (inputs, labels). Fixed seeds: every rank must hold the same samples in the same order."""
    return _spirals(arms, samples, noise, seed=1), _spirals(arms, samples // 5, noise, seed=2)


def _spirals(arms: int, samples: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % arms
    radius = torch.rand(samples, generator=generator).sqrt()
    angle = 2 * math.pi * (radius + labels / arms)
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return points + noise * torch.randn(samples, 2, generator=generator), labels
