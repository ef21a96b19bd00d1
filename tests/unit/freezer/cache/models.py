"""Models of many shapes, with what is frozen of each, and where its passes should be cut or why they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.freezer.cache.noted import Noted
from tests.unit.freezer.toys import ResNet, Transformer

Data = dict[str, Tensor]


def _images(count: int) -> Data:
    return {"x": torch.randn(count, 3, 9, 9)}


def _tokens(count: int) -> Data:
    return {"x": torch.randint(12, (count, 6))}


def _vectors(count: int) -> Data:
    return {"x": torch.randn(count, 16)}


def _text(count: int) -> Data:
    lengths = torch.randint(2, 7, (count, 1))
    mask = (torch.arange(6) < lengths).long()
    return {"input_ids": torch.randint(1, 30, (count, 6)) * mask, "attention_mask": mask}


def _text_with_positions(count: int) -> Data:
    return {**_text(count), "position_ids": torch.arange(6).expand(count, 6).contiguous()}


def _positional(data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (data["x"],), {}


def _named(data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), dict(data)


def _loss(output: Any) -> Tensor:
    if isinstance(output, dict):
        output = output["logits"]
    return output.float().square().mean() + output.float().logsumexp(-1).mean()


@dataclass
class Case:
    """One model. ``frozen``: prefixes of parameters; ``cut`` or (part of) the ``reason``."""

    make: Callable[[], nn.Module]
    frozen: tuple[str, ...]
    data: Callable[[int], Data]
    cut: str = ""
    reason: str = ""
    call: Callable[[Data], tuple[tuple[Any, ...], dict[str, Any]]] = _positional
    awake: tuple[str, ...] = ()
    loss: Callable[[Any], Tensor] = _loss


class Cat(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)


class UNet(nn.Module):
    """The skip is the first layer's output as it is, or after an activation that is no module."""

    def __init__(self, active: bool) -> None:
        super().__init__()
        self.active = active
        self.down1 = nn.Conv2d(3, 4, 3, padding=1)
        self.down2 = nn.Conv2d(4, 4, 3, padding=1)
        self.up1 = nn.Conv2d(4, 4, 3, padding=1)
        self.up2 = nn.Conv2d(8, 3, 3, padding=1)
        self.cat = Cat()

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        a = F.relu(a) if self.active else a
        return self.up2(self.cat(self.up1(self.down2(a)), a)).mean((2, 3))


class HiddenSkip(nn.Module):
    """The skip goes through arithmetic, so that only the poison finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x) * 0.5
        return self.c(self.b(first)) + first[:, :3]


class HiddenSkipAtTheHead(HiddenSkip):
    """The same where arithmetic stands between the last frozen layer and the trained one."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x) * 0.5
        return self.c(self.b(first).tanh()) + first[:, :3]


class Residuals(nn.Module):
    """Blocks of many layers, each added to its input by arithmetic."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*(nn.Linear(16, 16) for _ in range(12)))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residuals.Block(), Residuals.Block())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class SharedRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.a, self.b, self.c, self.d = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.relu(self.c(self.relu(self.b(self.relu(self.a(x)))))))


class SharedBlock(nn.Module):
    """One block run three times, as ALBERT does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.block(x)
        return self.last(x)


class Dicts(nn.Module):
    class Part(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, 16)

        def forward(self, state: dict[str, Any]) -> dict[str, Any]:
            return {"h": self.linear(state["h"]).tanh(), "depth": state["depth"] + 1, "aux": (state["h"].sum(1), None)}

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Dicts.Part(16), Dicts.Part(16), Dicts.Part(16)])
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = {"h": x, "depth": 0}
        for part in self.parts:
            state = part(state)
        return {"logits": self.head(state["h"]) * state["depth"], "aux": state["aux"]}


class Rope(nn.Module):
    """Position values made once by a module without weights and used by every block, as in Llama."""

    class Angles(nn.Module):
        def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
            angle = positions.to(x.dtype)[..., None] / 7
            return angle.cos(), angle.sin()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor, place: tuple[Tensor, Tensor]) -> Tensor:
            return x + self.linear(x * place[0] + x.roll(1, -1) * place[1]).tanh()

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.angles = Rope.Angles()
        self.blocks = nn.ModuleList(Rope.Block() for _ in range(3))
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        place = self.angles(x, torch.arange(tokens.shape[1])[None])
        for block in self.blocks:
            x = block(x, place)
        return self.head(x.mean(1))


class RootDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.3, self.training)
        return self.c(self.b(self.a(x)))


class SuffixDropout(nn.Module):
    """Random numbers behind the cut must be those of the whole pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.dropout(self.b(self.a(x)), 0.3, self.training))


class BatchNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.norm(self.a(x))))


class Centred(nn.Module):
    """Takes the mean of the batch off: a sample's values depend on the others."""

    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x - x.mean(0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Centred.Layer(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class InPlace(nn.Module):
    """Writes into what a skipped module gave it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.place = nn.Parameter(torch.randn(6, 16))
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x += self.place
        return self.b(self.a(x)).mean(1)


class SequenceFirst(nn.Module):
    """The batch is the second dimension inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.blocks = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(tokens.t()))[0])


class UserFrozen(SharedBlock):
    """The user froze the bottom before any plan."""

    def __init__(self) -> None:
        super().__init__()
        self.first.requires_grad_(False)


def vgg() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
    return nn.Sequential(
        features, nn.Flatten(), nn.Linear(32, 16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 3)
    )


def bert(**changes: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
        **changes,
    )
    return BertForSequenceClassification(config)


_BERT = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1")
CASES = {
    "resnet": Case(ResNet, ("conv", "bn", "drop", "layer1", "layer2.0"), _images, "layer2.0"),
    "resnet, inside a block": Case(
        ResNet, ("conv", "bn", "drop", "layer1", "layer2.0", "layer2.1.conv1"), _images, "layer2.0"
    ),
    "resnet, all but the head": Case(ResNet, ("conv", "bn", "drop", "layer1", "layer2"), _images, "layer2"),
    "transformer": Case(Transformer, ("embed", "cls_token", "blocks.0", "blocks.1"), _tokens, "blocks.1"),
    "transformer, unused weights": Case(
        lambda: Transformer(unused=True), ("embed", "cls_token", "blocks.0"), _tokens, "blocks.0"
    ),
    "bert": Case(bert, _BERT, _text, "bert.encoder.layer.1", call=_named),
    "bert, positions": Case(bert, _BERT, _text_with_positions, "bert.encoder.layer.1", call=_named),
    "bert, eager": Case(lambda: bert(attn_implementation="eager"), _BERT, _text, "bert.encoder.layer.1", call=_named),
    "bert, all but the head": Case(bert, ("bert",), _text, "bert", call=_named),
    "vgg": Case(vgg, ("0",), _images, "1"),
    "shared relu": Case(SharedRelu, ("a", "b"), _vectors, "relu"),
    "shared block": Case(SharedBlock, ("first", "block"), _vectors, "block"),
    "dicts": Case(Dicts, ("parts.0", "parts.1"), _vectors, "parts.1"),
    "rope": Case(Rope, ("embed", "blocks.0", "blocks.1"), _tokens, "blocks.1"),
    "dropout behind the cut": Case(SuffixDropout, ("a",), _vectors, "a"),
    "writes in place": Case(InPlace, ("embed", "place", "a"), _tokens, "a"),
    "sequence first": Case(SequenceFirst, ("embed", "blocks.0"), _tokens, "blocks.1"),
    "frozen by the user": Case(UserFrozen, ("first",), _vectors, "first"),
    "u-net, the skip is the cut": Case(lambda: UNet(False), ("down1", "down2"), _images, "down1"),
    "u-net": Case(lambda: UNet(True), ("down1", "down2"), _images, reason="gives another output"),
    "u-net, two levels": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), UNet(False)), ("1.down1", "1.down2"), _images, reason="'0' is trained"
    ),
    "hidden skip": Case(HiddenSkip, ("a", "b"), _vectors, reason="gives another output"),
    "hidden skip at the head": Case(HiddenSkipAtTheHead, ("a", "b"), _vectors, reason="gives another output"),
    "deep inside a residual block": Case(
        Residuals, ("blocks.0", *(f"blocks.1.body.{i}" for i in range(11))), _vectors, "blocks.0"
    ),
    "functional dropout": Case(RootDropout, ("a",), _vectors, reason="draws random numbers"),
    "dropout awake": Case(
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 16), nn.Linear(16, 3)),
        ("1",),
        _vectors,
        reason="draws random numbers",
        awake=("0",),
    ),
    "batch norm awake": Case(BatchNorms, ("a", "norm", "b"), _vectors, reason="", cut="a", awake=("norm",)),
    "noted behind the cut": Case(lambda: Noted(2, False), ("a", "b"), _vectors, "b"),
    "noted anew behind the cut": Case(lambda: Noted(2, True), ("a", "b"), _vectors, "b"),
    "noted around the cut": Case(lambda: Noted(1, False), ("a", "b"), _vectors, "a"),
    "noted anew around the cut": Case(lambda: Noted(1, True), ("a", "b"), _vectors, "a"),
    "noted by a container": Case(lambda: Noted(2, False, True), ("a", "b"), _vectors, reason="changes its buffer"),
    "noted anew by a container": Case(lambda: Noted(2, True, True), ("a", "b"), _vectors, reason="changes its buffer"),
    "batch statistics": Case(Centred, ("a",), _vectors, reason="depend on the rest of its batch"),
    "first layer trained": Case(SharedBlock, ("block",), _vectors, reason="'first' is trained"),
}


_made: WeakKeyDictionary[nn.Module, tuple[Case, list[tuple[str, ...]]]] = WeakKeyDictionary()


def build(case: Case) -> nn.Module:
    model = case.make()
    _made[model] = case, [()]
    return model


def freeze(model: nn.Module, prefixes: Collection[str] | None) -> None:
    """Freeze exactly the parameters under ``prefixes``; ``None``: put frozen modules to sleep after ``train()``."""
    case, now = _made[model]
    if prefixes is not None:
        now[0] = tuple(prefixes)
        for name, p in model.named_parameters():
            p.requires_grad_(not _under(name, now[0]))
            if not p.requires_grad:
                p.grad = None
    for path, module in model.named_modules():
        if path and _under(path, now[0]) and not _under(path, case.awake):
            module.training = False


def _under(name: str, prefixes: Collection[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)
