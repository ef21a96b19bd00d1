"""EfficientNet-Lite0 (Tan and Le 2019, table 1; the Lite form: no squeeze-excite, ReLU6), with its ImageNet weights."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from workers.jobs.options import EfficientNetOptions
from workers.jobs.spec import ModelSpec
from workers.packages import DataPackageMissing, locate
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid, DatasetInvalid
from workers.training.models.layers import init_convolutions
from workers.training.models.weights import load_exactly, read_tensors

PACKAGE = "efficientnet-lite0"
WEIGHTS = "efficientnet-lite0-57934424.pth"
MEAN, STD = 127.0, 128.0
"""What the weights were trained with: pixels of 0 to 255 become ``(x - 127) / 128``."""

STAGES = (
    # kernel, stride of the first block, expansion, output channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, LAST = 32, 1280


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's ``SAME``: an odd pixel goes to the right and to the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0  # at stride 1 both rules agree
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        (top, bottom), (left, right) = (self._border(side) for side in x.shape[-2:])
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _border(self, side: int) -> tuple[int, int]:
        step, kernel = self.stride[0], self.kernel_size[0]
        missing = max((-(-side // step) - 1) * step + kernel - side, 0)
        return missing // 2, missing - missing // 2


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Module:
    """Convolution, BatchNorm and, unless it is a linear projection, ReLU6."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=SameConv2d(inputs, outputs, kernel, stride, groups))
    parts["norm"] = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1)  # momentum .01 would outlast a short run
    if act:
        parts["act"] = nn.ReLU6()
    return nn.Sequential(parts)


class MBConv(nn.Module):
    """Expand by 1x1, filter depthwise, project by a linear 1x1; shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = layer(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = layer(hidden, hidden, kernel, stride, groups=hidden)
        self.project = layer(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Stem, 16 blocks, a 1x1 convolution, mean over pixels, dropout, head; no stochastic depth.

    Images ``(n, 3, h, w)`` to logits ``(n, num_classes)``.
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.stem = layer(3, STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        inputs = STEM
        for kernel, stride, expansion, outputs, count in STAGES:
            for index in range(count):
                blocks.append(MBConv(inputs, outputs, kernel, 1 if index else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = layer(inputs, LAST, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(LAST, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.last(self.blocks(self.stem(x)))
        logits: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return logits


def build(spec: ModelSpec, options: EfficientNetOptions, task: TaskInfo, settings: Settings) -> nn.Module:
    """With ``pretrained: false`` or weights of one's own, the package is not needed."""
    if task.input_shape[0] != 3:
        raise ConfigInvalid(
            f"model {spec.name} takes 3 channels, but the data has {task.input_shape[0]}: "
            "set data.options.channels to 3"
        )
    model = EfficientNetLite0(task.num_classes, options.dropout)
    if not spec.pretrained or spec.path is not None:
        return model
    try:
        folder = locate(PACKAGE, settings.packages)
    except DataPackageMissing as error:
        raise DatasetInvalid(str(error)) from error
    state = {own_name(name): value for name, value in read_tensors(folder / WEIGHTS).items()}
    own = model.state_dict()
    if state["head.bias"].shape != own["head.bias"].shape:  # ImageNet's 1,000 classes
        state |= {name: own[name] for name in ("head.weight", "head.bias")}
    load_exactly(model, state, PACKAGE)
    return model


_OUTSIDE = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "last.conv",
    "_bn1": "last.norm",
    "_fc": "head",
}
_INSIDE = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def own_name(name: str) -> str:
    """Name in :class:`EfficientNetLite0` of a tensor of the file; an unknown one stays as it is, to be refused."""
    parts = name.split(".")
    if parts[0] == "_blocks" and len(parts) == 4 and parts[2] in _INSIDE:
        return f"blocks.{parts[1]}.{_INSIDE[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _OUTSIDE:
        return f"{_OUTSIDE[parts[0]]}.{parts[1]}"
    return name
