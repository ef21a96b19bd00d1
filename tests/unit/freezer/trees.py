"""Random small models for property tests: every way in which a module tree can surprise an engine that freezes parts.

A :class:`Tree` is a value that hypothesis draws, shrinks and prints; :meth:`Tree.build` makes the model of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTH, LENGTH, WORDS, CLASSES, SAMPLES = 8, 4, 11, 3, 8
CONVS = ("residual", "plain", "bare-norm")
SEQUENCES = ("post-norm", "mlp", "attention", "adapted", "spectral")


class Residual(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(WIDTH)  # registered before what runs before it
        self.conv1, self.conv2 = (nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False) for _ in range(2))
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.drop(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


class Plain(nn.Module):
    """``bare``: a norm without weights, whose statistics move nevertheless."""

    def __init__(self, drop: float, bare: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        self.norm = nn.BatchNorm2d(WIDTH, affine=False) if bare else nn.Identity()
        self.rate = drop

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.norm(self.conv(x))), self.rate, self.training)


class PostNorm(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.dense, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x + self.drop(self.dense(x)))
        return result


class Mlp(nn.Module):
    """Pre-norm, with dropout called as a function: only the block's own mode switches it off."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.rate = nn.LayerNorm(WIDTH), drop

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), self.rate, self.training)


class Attention(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner, self.drop = nn.MultiheadAttention(WIDTH, 2, drop, batch_first=True), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        result: Tensor = x + self.drop(self.inner(h, h, h, need_weights=False)[0])
        return result


class Adapted(nn.Module):
    """The user froze the layer and trains a low-rank adapter beside it."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.low, self.high = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.base(x) + self.high(self.low(self.drop(x))))


class Spectral(nn.Module):
    """Its parametrization has buffers that move in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = spectral_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x))


def block(kind: str, drop: float) -> nn.Module:
    match kind:
        case "residual":
            return Residual(drop)
        case "plain" | "bare-norm":
            return Plain(drop, kind == "bare-norm")
        case "post-norm":
            return PostNorm(drop)
        case "mlp":
            return Mlp(drop)
        case "attention":
            return Attention(drop)
        case "adapted":
            return Adapted(drop)
        case "spectral":
            return Spectral()
    raise ValueError(kind)


@dataclass(frozen=True)
class Tree:
    """What a model is made of. Inputs are ``(n, 3, 6, 6)`` float32 for convolutions, else ``(n, LENGTH)`` int64.

    Attributes:
        convs: kinds of the blocks behind a convolutional front; none: the front is an embedding.
        blocks: kinds of the blocks on sequences, after those.
        drop: rate of every dropout.
        backward: register everything in the reverse of the order in which it runs.
        listed: hold the blocks in one ``ModuleList``, not as children of the model.
        tied: the head shares the embedding's weight.
        twice: the last block runs twice.
        spare: a layer that never runs.
        settled: the user froze the front from the start.
    """

    convs: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ("mlp",)
    drop: float = 0.0
    backward: bool = False
    listed: bool = False
    tied: bool = False
    twice: bool = False
    spare: bool = False
    settled: bool = False

    def build(self, seed: int = 0) -> Model:
        torch.manual_seed(seed)
        return Model(self)

    def data(self) -> Tensor:
        """A data set of ``SAMPLES`` samples."""
        generator = torch.Generator().manual_seed(7)
        if self.convs:
            return torch.randn(SAMPLES, 3, 6, 6, generator=generator)
        return torch.randint(WORDS, (SAMPLES, LENGTH), generator=generator)


class Model(nn.Module):
    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        parts: dict[str, nn.Module] = {}
        parts["front"] = nn.Conv2d(3, WIDTH, 3, 2, 1) if tree.convs else nn.Embedding(WORDS, WIDTH)
        made = [block(kind, tree.drop) for kind in (*tree.convs, *tree.blocks)]
        names = [f"part{i}" for i in range(len(made))]
        if tree.listed:
            parts["blocks"] = nn.ModuleList(made)
            names = [f"blocks.{i}" for i in range(len(made))]
        else:
            parts |= dict(zip(names, made, strict=True))
        parts["head"] = nn.Linear(WIDTH, CLASSES if tree.convs else WORDS, bias=not tree.tied)
        if tree.tied and not tree.convs:
            parts["head"].weight = parts["front"].weight
        if tree.spare:
            parts["spare"] = nn.Linear(WIDTH, WIDTH)
        if tree.settled:
            parts["front"].requires_grad_(False)
        for name in reversed(parts) if tree.backward else parts:
            self.add_module(name, parts[name])
        self.chain = names + names[-1:] if tree.twice else names

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule("front")(x)
        for position, name in enumerate(self.chain):
            if position == len(self.tree.convs) and self.tree.blocks and x.dim() == 4:
                x = x.flatten(2).transpose(1, 2)
            x = self.get_submodule(name)(x)
        pooled = x.mean((2, 3)) if x.dim() == 4 else x.mean(1)
        result: Tensor = self.get_submodule("head")(pooled)
        return result


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Small models, about 5 ms a training step; the first ones tried are the simplest."""
    convs = draw(st.lists(st.sampled_from(CONVS), max_size=2))
    blocks = draw(st.lists(st.sampled_from(SEQUENCES), min_size=0 if convs else 1, max_size=3))
    return Tree(
        convs=tuple(convs),
        blocks=tuple(blocks),
        drop=draw(st.sampled_from([0.0, 0.3])),
        backward=draw(st.booleans()),
        listed=draw(st.booleans()),
        tied=not convs and draw(st.booleans()),
        twice=draw(st.booleans()),
        spare=draw(st.booleans()),
        settled=draw(st.booleans()),
    )
