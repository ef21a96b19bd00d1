"""A small vision transformer (Dosovitskiy et al. 2020), pre-norm, mean over tokens in place of a class token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.jobs.options import VitOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid


class PositionEmbedding(nn.Module):
    """A learned vector per token; a module of its own, so that it is a weighted module like any other."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Attention(nn.Module):
    """Multi-head self-attention, ``(n, tokens, width)`` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, tokens, width))
        return out


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        x = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return x


class SmallVit(nn.Module):
    """Patches, position, encoder blocks, norm, mean over tokens, head.

    Images ``(n, channels, h, w)`` to logits ``(n, num_classes)``.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, options: VitOptions) -> None:
        super().__init__()
        channels, height, width = shape
        tokens = (height // options.patch) * (width // options.patch)
        self.patches = nn.Conv2d(channels, options.width, options.patch, options.patch)
        self.position = PositionEmbedding(tokens, options.width)
        self.blocks = nn.Sequential(
            *(EncoderBlock(options.width, options.heads, options.dropout) for _ in range(options.depth))
        )
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        # in order: strides survive every residual sum, and each norm would copy all over again
        tokens = self.position(self.patches(x).flatten(2).transpose(1, 2).contiguous())
        features: Tensor = self.norm(self.blocks(tokens))
        logits: Tensor = self.head(features.mean(dim=1))
        return logits


def build(spec: ModelSpec, options: VitOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    channels, height, width = task.input_shape
    if options.width % options.heads:
        raise ConfigInvalid(f"model.options.width {options.width} must be a multiple of heads {options.heads}")
    if height % options.patch or width % options.patch:
        raise ConfigInvalid(f"model.options.patch {options.patch} must divide the image, which is {height}x{width}")
    return SmallVit((channels, height, width), task.num_classes, options)
