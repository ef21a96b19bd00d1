"""Two equal training loops, one of them through a forward cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from freezer.cache import CacheSettings, ForwardCache
from tests.unit.freezer.cache.models import Case, build, freeze

STEPS = 1000


def batches(samples: int, size: int, epochs: int, seed: int = 5) -> Iterator[Tensor]:
    """Ids in a new order in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=generator).split(size)


class Run:
    """A training loop with random numbers of its own, whose passes may go through a cache."""

    def __init__(self, case: Case, settings: CacheSettings | None = None, samples: int | None = None) -> None:
        torch.manual_seed(0)
        self.case = case
        self.model = build(case)
        self.data = case.data(24)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.settings = settings
        self.samples = samples
        self.plan: tuple[str, ...] = ()
        self.renew()
        self.random = torch.get_rng_state()

    def renew(self) -> None:
        """Begin with an empty cache, as a resume does."""
        settings = self.settings
        self.cache = ForwardCache(self.model, settings, samples=self.samples) if settings is not None else None
        if self.plan:
            self.freeze(*self.plan)

    def freeze(self, *prefixes: str, left: int = STEPS) -> None:
        """Exactly these, with so many steps to come."""
        self.plan = prefixes
        freeze(self.model, prefixes)
        self.optimizer.zero_grad()
        if self.cache is not None:
            self.cache.retarget(",".join(prefixes), left)

    def step(
        self,
        ids: Tensor,
        draws: Tensor | None = None,
        change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
        update: bool = True,
    ) -> Tensor:
        torch.set_rng_state(self.random)
        self.model.train()
        freeze(self.model, None)
        args, kwargs = self.case.call(change({k: v[ids] for k, v in self.data.items()}))
        if self.cache is None:
            output = self.model(*args, **kwargs)
        else:
            with self.cache.around(ids, draws, args, kwargs):
                output = self.model(*args, **kwargs)
        loss = self.case.loss(output)
        loss.backward()
        if update:
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
    """Both through the same batches, comparing every loss and the final weights."""
    for ids in batches(24, size, epochs, seed):
        assert torch.equal(plain.step(ids), cached.step(ids))
    same_weights(plain.model, cached.model)
