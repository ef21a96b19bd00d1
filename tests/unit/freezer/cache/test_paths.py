"""A model that takes another path than the recorded one: the pass begins anew as a whole, and the cache is off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.freezer.cache.models import CASES, Case
from tests.unit.freezer.cache.runs import both, same_weights

VECTORS = CASES["shared block"].data


class Adaptive(nn.Module):
    """Runs a shared layer as often as the inputs ask for, and draws random numbers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.norm = nn.BatchNorm1d(16)
        self.open = 0

    def forward(self, x: Tensor) -> Tensor:
        self.open += 1  # a pass that is left at the cut leaves it raised
        loops = 1 if x[0, 0] >= 0.5 else 3
        x = self.first(x)
        for _ in range(loops):
            x = self.block(x).tanh()
        self.open -= 1
        return self.last(self.norm(F.dropout(x, 0.3, self.training)))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(torch.arange(16, 24), id="while it is computed"),
        pytest.param(torch.arange(8).roll(3), id="while it is replayed"),
    ],
)
def test_training_goes_on_without_the_cache(other: Tensor) -> None:
    plain, cached = both(Case(Adaptive, ("first", "block"), VECTORS), "first", "block")
    for run in (plain, cached):
        run.data["x"][:, 0] = torch.arange(24) / 10
    for _ in range(3):
        assert torch.equal(plain.step(torch.arange(8)), cached.step(torch.arange(8)))
    assert cached.cache.state == "on", cached.cache.reason
    assert (cached.cache.cut.path, cached.cache.cut.nth) == ("block", 2)
    for _ in range(3):
        assert torch.equal(plain.step(other), cached.step(other))
    same_weights(plain.model, cached.model)
    assert cached.cache.state == "refused"
    assert "did not call module 'block' as in the recorded pass" in cached.cache.reason
    assert cached.model.open == 0
    assert all("forward" not in m.__dict__ for m in cached.model.modules())
