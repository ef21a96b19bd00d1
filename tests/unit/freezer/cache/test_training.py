"""Training from the cache is training without it, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.cache import CacheSettings, ForwardCache
from freezer.cache import trial as trial_module
from tests.unit.freezer.cache.models import CASES, Case, build, freeze

STEPS = 1000


@pytest.fixture(autouse=True)
def always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of one pass that any fetch wins: tiny models are faster computed than fetched."""
    monkeypatch.setattr(trial_module, "PASSES", 1)
    monkeypatch.setattr(trial_module, "GAIN", float("inf"))


def batches(samples: int, size: int, epochs: int, seed: int = 5) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=generator).split(size)


class Run:
    """A training loop whose passes may go through a cache."""

    def __init__(self, case: Case, settings: CacheSettings | None = None, samples: int | None = None) -> None:
        torch.manual_seed(0)
        self.case = case
        self.model = build(case)
        self.data = case.data(24)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.cache = ForwardCache(self.model, settings, samples=samples) if settings is not None else None
        self.states: list[str] = []
        self.random = torch.get_rng_state()

    def freeze(self, *prefixes: str) -> None:
        freeze(self.model, prefixes)
        self.optimizer.zero_grad()
        if self.cache is not None:
            self.cache.retarget(",".join(prefixes), STEPS)

    def step(self, ids: Tensor, draws: Tensor | None = None, change: Callable[[Any], Any] = lambda x: x) -> Tensor:
        torch.set_rng_state(self.random)
        self.model.train()
        freeze(self.model, None)
        args, kwargs = self.case.call(change({k: v[ids] for k, v in self.data.items()}))
        if self.cache is None:
            output = self.model(*args, **kwargs)
        else:
            with self.cache.around(ids, draws, args, kwargs):
                output = self.model(*args, **kwargs)
            self.states.append(self.cache.state)
        loss = self.case.loss(output)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.random = torch.get_rng_state()
        return loss.detach()


def same_weights(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def both(case: Case, *prefixes: str, **changes: Any) -> tuple[Run, Run]:
    plain, cached = Run(case), Run(case, CacheSettings(**changes))
    for run in (plain, cached):
        run.freeze(*prefixes)
    return plain, cached


def train(plain: Run, cached: Run, epochs: int = 3, size: int = 8, seed: int = 5) -> None:
    for ids in batches(24, size, epochs, seed):
        assert torch.equal(plain.step(ids), cached.step(ids))
    same_weights(plain.model, cached.model)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.cut])
def test_replayed_training_is_bit_identical(name: str) -> None:
    case = CASES[name]
    plain, cached = both(case, *case.frozen)
    train(plain, cached)
    report = cached.cache.report()
    assert report["state"] == "on", report["reason"]
    assert report["cut"] == case.cut
    assert report["hits"] == 48
    assert report["misses"] == 24
    assert report["rows_ram"] == 24
    assert all("forward" not in m.__dict__ for m in cached.model.modules())


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.reason])
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(name: str) -> None:
    case = CASES[name]
    plain, cached = both(case, *case.frozen)
    train(plain, cached, epochs=2)
    assert cached.cache.state == "refused"
    assert case.reason in cached.cache.reason
    assert cached.cache.report()["hits"] == 0
