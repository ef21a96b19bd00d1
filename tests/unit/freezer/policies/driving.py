"""Drive a policy with a small real model, as the engine does, without the engine."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from freezer.config import FreezeConfig
from freezer.policies.base import Policy, PolicyContext, Verdict
from freezer.units import Unit, discover


class Layers(nn.Module):
    """Stem, three blocks of two layers with BatchNorm and dropout, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 8))
            for _ in range(3)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.head(x)
        return result


class Run:
    """A training run of so many steps with a stage after every ``every``-th; verdicts take effect at once."""

    def __init__(self, make: Callable[[], Policy], every: int = 2, total: int = 24, lr: float = 0.1) -> None:
        torch.manual_seed(0)
        self.model = Layers()
        self.optimizer: Optimizer = SGD(self.model.parameters(), lr=lr)
        self.units: list[Unit] = discover(self.model, (torch.zeros(2, 6),), {}, "layer")
        self.policy, self.every, self.total = make(), every, total
        self.frozen: set[str] = set()
        self.said: list[tuple[int, list[Verdict]]] = []
        self.step = 0
        self.rates: dict[int, float] = {}

    def watch(self) -> None:
        self.policy.watch(self.model, self.optimizer, self.units, ((batch(self.step),), {}))

    def context(self, extra: Any, config: FreezeConfig | None = None) -> PolicyContext:
        return PolicyContext(
            step=self.step, total_steps=self.total, units=self.units, frozen=frozenset(self.frozen), windows={},
            learning_rate=float(self.optimizer.param_groups[0]["lr"]), initial_learning_rate=0.1,
            config=config or FreezeConfig(policy="none"), extra=extra,
        )  # fmt: skip

    def go(self, until: int) -> None:
        while self.step < until:
            self.optimizer.param_groups[0]["lr"] = self.rates.get(self.step, self.optimizer.param_groups[0]["lr"])
            torch.manual_seed(1000 + self.step)
            loss = nn.functional.cross_entropy(self.model(batch(self.step)), torch.arange(8) % 3)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.step % self.every == 0:
                verdicts = self.policy.decide(self.context(self.policy.collect(self.step)))
                self.said.append((self.step, verdicts))
                self._apply(verdicts)

    def _apply(self, verdicts: list[Verdict]) -> None:
        parameters = dict(self.model.named_parameters())
        for verdict in verdicts:
            (self.frozen.discard if verdict.thaw else self.frozen.add)(verdict.unit)
        for unit in self.units:
            for name in unit.params:
                parameters[name].requires_grad_(unit.name not in self.frozen)

    def resumed(self, make: Callable[[], Policy]) -> Run:
        """What a new process makes of a checkpoint, written and read as checkpoints are."""
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.optimizer.state_dict(), self.policy.state_dict()], file)
        file.seek(0)
        model, optimizer, policy = torch.load(file, weights_only=True)
        other = Run(make, self.every, self.total)
        other.model.load_state_dict(model)
        other.optimizer.load_state_dict(optimizer)
        other.policy.load_state_dict(policy)
        other.frozen, other.step, other.rates = set(self.frozen), self.step, self.rates
        other._apply([])
        other.watch()
        return other


def batch(step: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
