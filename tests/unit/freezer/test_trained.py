"""What the user switches on or off by ``requires_grad`` while the freezer watches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freezer.errors import VerificationError
from freezer.freezer import Freezer
from tests.unit.freezer.toys import settings


def mlp(layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)), nn.Linear(16, 3))


def build(model: nn.Module, cache: str = "off") -> tuple[Freezer, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return Freezer(model, optimizer, settings(policy="none", cache=cache), total_steps=100), optimizer


def train(freezer: Freezer, optimizer: torch.optim.Optimizer, steps: range) -> None:
    data = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    for step in steps:
        ids = torch.arange(8) + 8 * (step % 2)
        freezer.model.train()
        with freezer.batch(ids):
            freezer.model(data[ids]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()


def test_layers_that_the_user_unfreezes_train_although_they_were_cached() -> None:
    weights, hits = [], []
    for cache in ("off", "auto"):
        model = mlp()
        model[:3].requires_grad_(False)
        freezer, optimizer = build(model, cache)
        train(freezer, optimizer, range(8))
        hits.append(freezer.cache.report()["hits"])
        model[1:3].requires_grad_(True)  # gradual unfreezing, from the head on
        train(freezer, optimizer, range(8, 16))
        hits.append(freezer.cache.report()["hits"])
        model.requires_grad_(True)
        train(freezer, optimizer, range(16, 20))
        assert freezer.cache.state == ("off" if cache == "off" else "waiting")
        weights.append([p.detach().clone() for p in model.parameters()])
        freezer.close()
    assert 0 < hits[2] < hits[3]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert not torch.equal(weights[0][0], mlp()[0].weight)


def test_layers_that_the_user_fixes_again_are_cached() -> None:
    model = mlp()
    model[:2].requires_grad_(False)
    freezer, optimizer = build(model, "auto")
    train(freezer, optimizer, range(2))
    model[:2].requires_grad_(True)
    train(freezer, optimizer, range(2, 4))
    assert freezer.cache.reason == "nothing is frozen"
    model[:2].requires_grad_(False)
    optimizer.zero_grad()
    train(freezer, optimizer, range(4, 8))
    assert freezer.cache.report()["cut"] == "1"
    freezer.close()


def test_a_frozen_unit_made_trainable_from_outside_is_named_at_once_and_can_be_thawed() -> None:
    model = mlp()
    freezer, optimizer = build(model)
    train(freezer, optimizer, range(2))
    freezer.freeze(["0"])
    train(freezer, optimizer, range(2, 4))
    before = model[0].weight.detach().clone()
    model.requires_grad_(True)
    with pytest.raises(VerificationError, match=r"0.weight of frozen unit '0' .*freezer.thaw\(\['0'\]\)"):
        train(freezer, optimizer, range(4, 5))
    assert torch.equal(model[0].weight, before)
    freezer.thaw(["0"])
    train(freezer, optimizer, range(4, 6))
    assert not torch.equal(model[0].weight, before)
    freezer.close()


def test_active_units_may_be_off_for_a_while() -> None:
    """As the other half of a GAN is in the passes of this one."""
    model = mlp()
    freezer, optimizer = build(model, "auto")
    train(freezer, optimizer, range(2))
    for _ in range(2):
        model.requires_grad_(False)
        inputs = torch.randn(8, 16, requires_grad=True)
        freezer.model(inputs).sum().backward()
        assert inputs.grad is not None
        model.requires_grad_(True)
        train(freezer, optimizer, range(2, 4))
    assert freezer.freeze(["0"]) is not None
    freezer.close()


def test_a_change_of_frozen_units_leaves_active_ones_off() -> None:
    """The other half of a GAN is off at the moment of the event, and on again later."""
    model = mlp()
    freezer, optimizer = build(model)
    train(freezer, optimizer, range(2))
    model[3].requires_grad_(False)
    optimizer.zero_grad()
    for change in (lambda: freezer.freeze(["0"]), freezer.thaw):
        assert change() is not None
        assert not any(p.requires_grad for p in model[3].parameters())
        train(freezer, optimizer, range(2, 4))
    model[3].requires_grad_(True)
    before = model[3].weight.detach().clone()
    train(freezer, optimizer, range(4, 6))
    assert not torch.equal(model[3].weight, before)
    freezer.close()


def test_a_change_that_failed_is_not_told_as_done() -> None:
    model = mlp()
    freezer, optimizer = build(model)
    train(freezer, optimizer, range(2))
    freezer.freeze(["0"])
    with torch.no_grad():
        model[0].bias += 1.0
    with pytest.raises(VerificationError, match="frozen unit '0' moved"):
        freezer.freeze(["0", "1"])
    assert freezer.plan.frozen == ("0",)
    assert len(freezer.history) == 1
    assert model[1].weight.requires_grad
    freezer.close()


def test_a_cut_found_while_active_units_were_off_is_given_up_when_they_are_on_again() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    freezer, optimizer = build(model, "auto")
    freezer.prepare(torch.randn(8, 16))
    model[1].requires_grad_(False)
    train(freezer, optimizer, range(4))
    assert freezer.cache.report()["cut"] == "1"
    before = model[1].weight.detach().clone()
    model[1].requires_grad_(True)
    train(freezer, optimizer, range(4, 8))
    assert freezer.cache.report()["cut"] == "0"
    assert not torch.equal(model[1].weight, before)
    freezer.close()
