"""A small MobileNetV2 for small images (Sandler et al. 2018, table 2, with fewer and narrower stages)."""

from __future__ import annotations

from torch import Tensor, nn

from workers.jobs.options import ConvNetOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.models.layers import conv_bn, init_convolutions

EXPANSION = 4


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by a linear 1x1; shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * EXPANSION
        self.expand = nn.Sequential(*conv_bn(inputs, hidden, kernel=1), nn.ReLU6())
        self.depthwise = nn.Sequential(*conv_bn(hidden, hidden, stride=stride, groups=hidden), nn.ReLU6())
        self.project = nn.Sequential(*conv_bn(hidden, outputs, kernel=1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class SmallMobileNetV2(nn.Module):
    """Stem, three stages of ``depth + 1`` inverted residuals, a 1x1 convolution, mean over pixels, head.

    Images ``(n, channels, h, w)`` to logits ``(n, num_classes)``.
    """

    def __init__(self, channels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, width), nn.ReLU6())
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            for index in range(depth + 1):
                blocks.append(InvertedResidual(inputs, outputs, stride=2 if stage and index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*conv_bn(inputs, inputs * 2, kernel=1), nn.ReLU6())
        self.head = nn.Linear(inputs * 2, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.last(self.blocks(self.stem(x)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def build(spec: ModelSpec, options: ConvNetOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    return SmallMobileNetV2(task.input_shape[0], task.num_classes, options.width, options.depth)
