"""The passes that look at a model leave nothing behind: training goes on as it would have without them."""

from __future__ import annotations

import random
from collections import deque
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from freezer.freezer import Freezer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Counts(Net):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # new on the instance, and not a buffer
        return super().forward(x) / self.calls


class Remembers(Net):
    """Hands a state from pass to pass, as stateful recurrent networks do."""

    state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = h if self.state is None else h + 0.5 * self.state
        self.state = h.detach()
        return self.last(h)


class Writes(Net):
    """The same, in place, into a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        self.mean.mul_(0.5).add_(h.detach().mean(0))
        return self.last(h - self.mean)


class Notes(Net):
    """Leaves losses for the training loop, which sums and clears them."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.losses: Any = kind()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if isinstance(self.losses, dict):
            self.losses[len(self.losses)] = h.square().mean()
        else:
            self.losses.append(h.square().mean())
        return self.last(h.relu())


class Draws(Net):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.generator = {
            "torch": torch.Generator(),
            "own": random.Random(0),
            "own numpy": np.random.default_rng(0),
        }.get(source)
        self.source = source
        random.seed(0)
        np.random.seed(0)

    def forward(self, x: Tensor) -> Tensor:
        kept: Any = self.generator
        drawn = {
            "python": random.random,
            "numpy": np.random.rand,
            "torch": lambda: torch.rand((), generator=kept).item(),
            "own": lambda: kept.random(),
            "own numpy": lambda: kept.random(),
        }[self.source]()
        return super().forward(x * drawn)


class Lazily(Net):
    """Makes what it needs in the first pass, in the place of None."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: nn.Module | None = None
        self.table: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.pool = nn.Tanh() if self.pool is None else self.pool
        table = self.table.setdefault(len(x), torch.arange(float(len(x)))[:, None])
        return super().forward(self.pool(x) + table)


def normed() -> nn.Module:
    model = Net()
    weight_norm(model.first)
    return model


def trained(make: Any, around: Any, with_freezer: bool) -> list[Tensor]:
    """Weights after a few steps of a plain loop, or of the same with a freezer that freezes nothing."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    freezer = Freezer(model, optimizer, policy="none", total_steps=5) if with_freezer else None
    for step in range(5):
        torch.manual_seed(step)
        with around():
            loss = (freezer.model if freezer else model)(torch.randn(3, 4)).square().mean()
            losses = getattr(model, "losses", [])
            loss = loss + sum(losses.values() if isinstance(losses, dict) else losses)
            losses.clear()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if freezer:
            freezer.step()
    if freezer:
        freezer.close()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    ("make", "around"),
    [
        pytest.param(Counts, nullcontext, id="counter"),
        pytest.param(Remembers, nullcontext, id="state"),
        pytest.param(Writes, nullcontext, id="in place"),
        pytest.param(lambda: Notes(list), nullcontext, id="list"),
        pytest.param(lambda: Notes(dict), nullcontext, id="dict"),
        pytest.param(lambda: Notes(deque), nullcontext, id="deque"),
        pytest.param(lambda: Draws("python"), nullcontext, id="python"),
        pytest.param(lambda: Draws("numpy"), nullcontext, id="numpy"),
        pytest.param(lambda: Draws("torch"), nullcontext, id="torch generator"),
        pytest.param(lambda: Draws("own"), nullcontext, id="own generator"),
        pytest.param(lambda: Draws("own numpy"), nullcontext, id="own numpy generator"),
        pytest.param(Lazily, nullcontext, id="lazily"),
        pytest.param(normed, parametrize.cached, id="cached parametrization"),
        pytest.param(Net, lambda: torch.autocast("cpu", dtype=torch.bfloat16), id="autocast"),
    ],
)
def test_a_freezer_that_freezes_nothing_changes_no_bit(make: Any, around: Any) -> None:
    plain, attached = trained(make, around, False), trained(make, around, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, attached, strict=True))


class Overwrites(Net):
    """Prepares its inputs in place, and takes the labels out of them."""

    def forward(self, batch: dict[str, Any]) -> Tensor:
        batch.pop("labels")
        return super().forward(batch["x"][0].sub_(1.0).div_(2.0))


def test_the_first_batch_is_given_to_training_as_it_was() -> None:
    model = Overwrites()
    freezer = Freezer(model, torch.optim.SGD(model.parameters(), lr=0.1), policy="none", total_steps=5)
    x = torch.full((2, 4), 9.0)
    batch = {"x": [x], "labels": torch.zeros(2)}
    freezer.model(batch)
    assert torch.equal(x, torch.full((2, 4), 4.0)), "written once"
    assert "labels" not in batch
    freezer.close()
