"""What stands in for skipped calls: loud, and without memory of its own."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from freezer.cache.cut import Cuts
from freezer.cache.replay import Replayer
from freezer.cache.tree import modules_of, record
from tests.unit.freezer.cache.models import SharedBlock


def _replayer(model: nn.Module) -> Replayer:
    model.requires_grad_(False)
    model.last.requires_grad_(True)
    own = {p: any(w.requires_grad for w in m.parameters(recurse=False)) for p, m in modules_of(model).items()}
    found = record(model, (torch.randn(4, 16),), {}, 4)
    return Replayer(modules_of(model), found, next(iter(Cuts(found, own))))


def test_dummies_are_loud_and_weightless() -> None:
    model = SharedBlock()
    replayer = _replayer(model)
    kept = torch.randn(4, 16)
    with replayer.replaying([kept], 4):
        dummy = model.first(torch.zeros(4, 16))
        assert dummy.isnan().all()
        assert dummy.untyped_storage().nbytes() == 4
        model.block(dummy), model.block(dummy)
        assert model.block(dummy) is kept
        assert torch.equal(model.block(kept), model.block[1](model.block[0](kept)))  # a fourth call runs
    assert not model.first(torch.zeros(4, 16)).isnan().any()


def test_recording_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    found = record(model, (torch.randn(4, 4, generator=torch.Generator().manual_seed(1)),), {}, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all("forward" not in m.__dict__ for m in model.modules())
    said = " ".join(text for _, text in found.obstacles)
    assert "'1' normalises with the statistics of the batch" in said
    assert "'2' draws random numbers" in said


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_what_draws_from_other_generators_is_noticed_and_they_go_on_as_they_would_have(
    draw: Callable[[], float],
) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * draw()

    random.seed(0)
    np.random.seed(0)
    expected = draw()
    random.seed(0)
    np.random.seed(0)
    found = record(nn.Sequential(nn.Linear(4, 4), Noise()), (torch.randn(4, 4),), {}, 4)
    assert "'1' draws random numbers" in " ".join(text for _, text in found.obstacles)
    assert draw() == expected
