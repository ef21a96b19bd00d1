"""A small residual network for small images (He et al. 2015, section 4.2: the CIFAR form, with projections)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from workers.jobs.options import ConvNetOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.models.layers import init_convolutions


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class SmallResNet(nn.Module):
    """Stem, three stages of ``depth`` blocks with ``width``, 2x and 4x channels, mean over pixels, head.

    Images ``(n, channels, h, w)`` to logits ``(n, num_classes)``.
    """

    def __init__(self, channels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for index in range(depth):
                blocks.append(Block(inputs, outputs, stride=2 if stage and index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(x))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def build(spec: ModelSpec, options: ConvNetOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    return SmallResNet(task.input_shape[0], task.num_classes, options.width, options.depth)
