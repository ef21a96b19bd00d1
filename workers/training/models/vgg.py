"""A small plain convolutional network with BatchNorm (after Simonyan and Zisserman 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from workers.jobs.options import VggOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.models.layers import conv_bn, init_convolutions


class SmallVgg(nn.Module):
    """Three stages of ``depth`` 3x3 convolutions, max-pooling between them, mean over pixels, head.

    Images ``(n, channels, h, w)`` to logits ``(n, num_classes)``.
    """

    def __init__(self, channels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = channels
        for stage in range(3):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += [*conv_bn(inputs, width * 2**stage), nn.ReLU()]
                inputs = width * 2**stage
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(x)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def build(spec: ModelSpec, options: VggOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    return SmallVgg(task.input_shape[0], task.num_classes, options.width, options.depth)
