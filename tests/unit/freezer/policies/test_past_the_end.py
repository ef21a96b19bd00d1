"""Training that goes on past the planned number of steps, under policies that set learning rates."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import SGD

from freezer.config import FreezeConfig
from freezer.factors import Factors
from freezer.freezer import Freezer
from freezer.policies import make
from freezer.units import discover
from tests.unit.freezer.policies.driving import Layers, batch


@pytest.mark.parametrize("name", ["thaw-last", "freezeout"])
def test_the_last_rates_stay_and_a_warning_says_so_once(name: str) -> None:
    torch.manual_seed(0)
    model = Layers()
    optimizer = SGD(model.parameters(), lr=0.05)
    freezer = Freezer(model, optimizer, FreezeConfig(policy=name, cache="off"), total_steps=16)
    moved = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(20):
            before = model.head.weight.detach().clone()
            optimizer.zero_grad()
            freezer.model(batch(step)).square().mean().backward()
            optimizer.step()
            freezer.step()
            moved.append(not torch.equal(model.head.weight, before))
    assert all(moved)
    assert [str(w.message).split(":")[0] for w in said] == ["training goes on past its planned 16 steps"]
    freezer.close()


@pytest.mark.parametrize("name", ["thaw-last", "freezeout"])
def test_factors_past_the_end_are_those_of_the_last_step(name: str) -> None:
    units = discover(Layers(), (torch.zeros(2, 6),), {}, "layer")
    factors = Factors(make(FreezeConfig(policy=name)), units, 40)
    last = factors.at(39, {"stem"})
    assert "stem" not in last, "a pinned unit follows the user's own schedule"
    assert last["head"] > 0.0
    with pytest.warns(RuntimeWarning, match="right total_steps"):
        assert factors.at(40, {"stem"}) == last
    assert factors.at(99, {"stem"}) == last
