"""The three models and, for each, the prefix and the suffix as somebody would cut them by hand, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers.jobs.options import VitOptions
from workers.training.models.minilm import TextClassifier, make_encoder
from workers.training.models.resnet import SmallResNet
from workers.training.models.vit import SmallVit

CLASSES = 10
Inputs = Callable[[int, torch.Generator], dict[str, Tensor]]

BATCHES = 12
"""Batches of an epoch on each rank; samples are numbered through them."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``kwargs`` go to the model, labels int64 (n,); ``ids`` int64 (n,), on the CPU, name the samples."""

    kwargs: dict[str, Tensor]
    labels: Tensor
    ids: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One model.

    Attributes:
        make: the model, fp32 on the CPU, weights drawn from the global random state.
        inputs: so many samples from a generator, by name.
        prefix: ``(model, blocks)`` to a function of a batch's inputs: stem and the first blocks.
        suffix: ``(model, blocks)`` to a module of the prefix's output (and what else it needs): all that follows.
        side: what the suffix needs beside the prefix's output.
        cuts: per cent of the forward FLOPs to the number of blocks of the prefix that has so many.
        size: samples of a batch.
    """

    name: str
    title: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    prefix: Callable[[Any, int], Callable[..., Tensor]]
    suffix: Callable[[Any, int], nn.Module]
    cuts: dict[int, int]
    size: int
    side: Callable[[dict[str, Tensor]], tuple[Tensor, ...]] = lambda inputs: ()  # noqa: ARG005

    def data(self, rank: int, device: torch.device) -> Data:
        """The samples of one rank; the same in every run."""
        generator = torch.Generator().manual_seed(100 + rank)
        count = BATCHES * self.size
        inputs = {name: value.to(device) for name, value in self.inputs(count, generator).items()}
        return Data(inputs, torch.randint(CLASSES, (count,), generator=generator).to(device), self.size)


@dataclass(frozen=True, slots=True)
class Data:
    """All samples of one rank, and the shuffled batches of every epoch."""

    inputs: dict[str, Tensor]
    labels: Tensor
    size: int

    def batch(self, number: int) -> Batch:
        """The batch of the step ``number``, counted from 0 over all epochs."""
        epoch, position = divmod(number, BATCHES)
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(epoch))
        ids = order[position * self.size : (position + 1) * self.size]
        rows = ids.to(self.labels.device)
        chosen = {name: value.index_select(0, rows) for name, value in self.inputs.items()}
        return Batch(chosen, self.labels.index_select(0, rows), ids)


class ResNetSuffix(nn.Module):
    def __init__(self, model: SmallResNet, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*list(model.blocks)[blocks:])
        self.head = model.head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return logits


class VitSuffix(nn.Module):
    def __init__(self, model: SmallVit, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*list(model.blocks)[blocks:])
        self.norm, self.head = model.norm, model.head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return logits


class BertSuffix(nn.Module):
    def __init__(self, model: Any, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(list(model.encoder.encoder.layer)[blocks:])
        self.dropout, self.head = model.dropout, model.head

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        visible = attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, visible)
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        logits: Tensor = self.head(self.dropout((x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)))
        return logits


def resnet_prefix(model: SmallResNet, blocks: int) -> Callable[..., Tensor]:
    parts = _still(nn.Sequential(model.stem, *list(model.blocks)[:blocks]))

    def run(x: Tensor) -> Tensor:
        out: Tensor = parts(x)
        return out

    return run


def vit_prefix(model: SmallVit, blocks: int) -> Callable[..., Tensor]:
    first = _still(nn.ModuleList([model.patches, model.position]))
    rest = _still(nn.Sequential(*list(model.blocks)[:blocks]))

    def run(x: Tensor) -> Tensor:
        out: Tensor = rest(first[1](first[0](x).flatten(2).transpose(1, 2).contiguous()))
        return out

    return run


def bert_prefix(model: Any, blocks: int) -> Callable[..., Tensor]:
    embeddings = _still(model.encoder.embeddings)
    layers = _still(nn.ModuleList(list(model.encoder.encoder.layer)[:blocks]))

    def run(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = embeddings(input_ids=input_ids)
        visible = attention_mask[:, None, None, :].bool()
        for layer in layers:
            x = layer(x, visible)
        return x

    return run


def _still(module: nn.Module) -> Any:
    return module.requires_grad_(False).eval()


def _images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 3, 32, 32, generator=generator)}


def _texts(length: int, words: int) -> Inputs:
    def make(count: int, generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(words, (count, length), generator=generator)
        lengths = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
        return {"input_ids": ids, "attention_mask": (torch.arange(length)[None] < lengths).long()}

    return make


def workload(name: str, *, accelerator: bool = False) -> Workload:
    """One of :data:`NAMES`; larger on an accelerator, where the small one would only time the launching of kernels.

    Raises:
        KeyError: no such model.
    """
    return {"cnn": _cnn, "vit": _vit, "bert": _bert}[name](accelerator)


def _cnn(large: bool) -> Workload:
    size, width = (256, 64) if large else (16, 16)
    return Workload(
        name="cnn",
        title=f"CNN (residual, 12 blocks, width {width}, batch {size} x 32 x 32)",
        make=lambda: SmallResNet(3, CLASSES, width, 4),
        inputs=_images,
        prefix=resnet_prefix,
        suffix=ResNetSuffix,
        cuts={25: 3, 50: 6, 75: 9},
        size=size,
    )


def _vit(large: bool) -> Workload:
    size, width = (256, 768) if large else (4, 192)
    options = VitOptions(width=width, depth=8, heads=width // 64, patch=4, dropout=0.1)
    return Workload(
        name="vit",
        title=f"ViT (8 blocks, width {width}, 64 tokens, batch {size})",
        make=lambda: SmallVit((3, 32, 32), CLASSES, options),
        inputs=_images,
        prefix=vit_prefix,
        suffix=VitSuffix,
        cuts={25: 2, 50: 4, 75: 6},
        size=size,
    )


def _bert(large: bool) -> Workload:
    size, length, width = (64, 128, 768) if large else (4, 32, 256)
    values = {
        "hidden_size": width,
        "num_hidden_layers": 8,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "vocab_size": 8192,
        "max_position_embeddings": 512,
    }
    return Workload(
        name="bert",
        title=f"BERT (8 layers, width {width}, 8192 words, batch {size} x {length})",
        make=lambda: TextClassifier(make_encoder(values), width, CLASSES, 0.1),
        inputs=_texts(length, 8192),
        prefix=bert_prefix,
        suffix=BertSuffix,
        cuts={25: 2, 50: 4, 75: 6},
        size=size,
        side=lambda inputs: (inputs["attention_mask"],),
    )


NAMES = ("cnn", "vit", "bert")


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(logits, batch.labels)
