"""Tiny models and a scripted policy for the engine's tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freezer.config import FreezeConfig
from freezer.policies.base import PolicyContext, Verdict


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


class ResNet(nn.Module):
    """Registered head first, so that registration order and execution order differ."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.bn(self.conv(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Block(nn.Module):
    """Pre-norm attention block with functional dropout, which only the block's own mode can switch off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.proj(attended), 0.1, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), 0.1, self.training)


class Transformer(nn.Module):
    """Token classifier; ``tied`` shares the embedding with the output layer. ``pool`` never runs."""

    def __init__(self, tied: bool = False, unused: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.embed = nn.Embedding(12, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 12, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        if unused:
            self.pool = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.cls_token
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Auxiliary(nn.Module):
    """Deep supervision: ``aux`` runs in training alone, and so does ``deep``, of which only the weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head, self.aux, self.deep = (nn.Linear(4, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        out = self.head(F.relu(self.second(x)))
        if not self.training:
            return out
        return torch.cat([out, self.aux(x), F.linear(x, self.deep.weight, self.deep.bias)])


class Scripted:
    """Says *converged* of the named units at the named steps; keeps a count, as a policy with state does."""

    name = "scripted"

    def __init__(self, script: dict[int, list[str]], probability: float | None = 0.9) -> None:
        self.script = script
        self.probability = probability
        self.asked: list[int] = []
        self.contexts: list[PolicyContext] = []

    def decide(self, context: PolicyContext) -> list[Verdict]:
        self.asked.append(context.step)
        self.contexts.append(context)
        return [Verdict(unit, True, self.probability) for unit in self.script.get(context.step, ())]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": list(self.asked)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = list(state["asked"])


def settings(**changes: Any) -> FreezeConfig:
    """Short windows, a stage every second step, no hysteresis."""
    values: dict[str, Any] = {
        "window": 3,
        "samples": 16,
        "snapshot_every": 1,
        "decide_every": 2,
        "patience": 1,
        "event_steps": 0.0,
    }
    return FreezeConfig(**{**values, **changes})


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 9, 9)


def tokens(count: int = 4) -> Tensor:
    return torch.randint(12, (count, 6))
