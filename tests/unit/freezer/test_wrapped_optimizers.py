"""Optimizers around another one: what works is as without the wrapper, what cannot work says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from freezer.config import FreezeConfig
from freezer.errors import ConfigError, VerificationError
from freezer.freezer import Freezer

STEPS = 12
LATER = FreezeConfig(policy="linear", options={"start": 0.0, "level": 1.0}, decide_every=2)
ONCE = FreezeConfig(policy="static", options={"first": 1, "start": 0.2}, decide_every=2)
GRADIENTS = FreezeConfig(policy="autofreeze", decide_every=2, patience=1, event_steps=0.0)
RATES = FreezeConfig(policy="freezeout", decide_every=2)


class Thin(Optimizer):
    """Passes everything on, as Accelerate's does, and never becomes an optimizer of its own."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        return self.inner.state

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


class Around(Optimizer):
    """Shares the inner one's groups, as they are now."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class Lookahead(Around):
    """Every third step, weights go half the way back to where they were."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner)
        self.slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.inner.step()
        self.count += 1
        if self.count % 3 == 0:
            for p, slow in self.slow.items():
                p.data.copy_(slow.lerp_(p, 0.5))


class Sam(Around):
    """Two halves instead of a step: up the slope, and from the gradient there down from the weights before."""

    @torch.no_grad()
    def first_half(self) -> None:
        self.before = {p: p.detach().clone() for g in self.param_groups for p in g["params"] if p.grad is not None}
        for p in self.before:
            p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_half(self) -> None:
        for p, value in self.before.items():
            p.copy_(value)
        self.inner.step()


def trained(make: Callable[[Optimizer], Optimizer], config: FreezeConfig, halves: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = make(SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    freezer = Freezer(model, optimizer, config, total_steps=STEPS)
    for step in range(STEPS):
        batch = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        freezer.model(batch).square().mean().backward()
        if halves:
            optimizer.first_half()  # type: ignore[attr-defined]
            freezer.model(batch).square().mean().backward()
            optimizer.second_half()  # type: ignore[attr-defined]
        else:
            optimizer.step()
        optimizer.zero_grad()
        held = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        freezer.step()
        assert all(torch.equal(p, held.get(n, p)) for n, p in model.named_parameters())
    assert freezer.plan.frozen
    freezer.close()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("make", [Thin, Around])
def test_one_that_only_passes_on_is_as_none(make: Any) -> None:
    for ours, plain in zip(trained(make, LATER), trained(lambda inner: inner, LATER), strict=True):
        assert torch.equal(ours, plain)


def test_one_that_is_stepped_in_two_halves_can_freeze() -> None:
    trained(Sam, LATER, halves=True)


def test_one_that_averages_frozen_weights_is_found_out_without_another_event() -> None:
    with pytest.raises(VerificationError, match=r"frozen unit '0' moved.*Lookahead"):
        trained(Lookahead, ONCE)


class Bare(Optimizer):
    """Never became an optimizer, and hands nothing on to one."""

    def __init__(self, inner: Optimizer) -> None:
        self.param_groups, self.state = inner.param_groups, inner.state


def test_gradients_are_seen_through_one_that_runs_no_hooks_or_it_is_refused() -> None:
    for ours, plain in zip(trained(Thin, GRADIENTS), trained(lambda inner: inner, GRADIENTS), strict=True):
        assert torch.equal(ours, plain)
    with pytest.raises(ConfigError, match=r"Bare runs no hooks before its steps.*Optimizer\.__init__"):
        trained(Bare, GRADIENTS)


def test_rates_of_units_reach_what_is_inside_or_are_refused() -> None:
    for ours, plain in zip(trained(Thin, RATES), trained(lambda inner: inner, RATES), strict=True):
        assert torch.equal(ours, plain)
    for make in (Around, Lookahead):
        with pytest.raises(ConfigError, match=f"{make.__name__} leaves its updates to SGD"):
            trained(make, RATES)
