"""AutoFreeze by hand: the change of a block's gradient, the boundary, the sums behind it, and an exact resume."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.freezer import Freezer
from freezer.policies import make
from freezer.policies.autofreeze import AutoFreezePolicy, boundary, change
from freezer.units import discover
from tests.unit.freezer.policies.driving import Run


def _policy() -> AutoFreezePolicy:
    return AutoFreezePolicy(FreezeConfig(policy="autofreeze"))


def test_the_change_of_a_norm() -> None:
    assert change(4.0, 3.0) == 0.25
    assert change(4.0, 6.0) == 0.5
    assert change(0.0, 0.0) == 0.0
    assert [change(*pair) for pair in ((0.0, 1.0), (1.0, math.nan), (math.inf, 1.0))] == [math.inf] * 3


@pytest.mark.parametrize(
    ("etas", "position"),
    [
        ([0.1, 0.2, 0.5, 0.4], 2),  # the median is 0.3
        ([0.4, 0.1, 0.1], 0),
        ([0.1, 0.2, 0.3], 1),
        ([0.2, 0.2], 0),
        ([], 0),
        ([0.1, math.inf, math.inf], 1),
    ],
)
def test_the_boundary_is_the_first_block_at_the_median(etas: list[float], position: int) -> None:
    assert boundary(etas) == position


def _toy() -> tuple[nn.Sequential, SGD, AutoFreezePolicy]:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    optimizer = SGD(model.parameters(), lr=0.0)
    policy = _policy()
    policy.watch(model, optimizer, discover(model, (torch.zeros(2, 1),), {}, "layer"), ((), {}))
    return model, optimizer, policy


def _update(model: nn.Module, optimizer: Any, *gradients: float) -> None:
    """The same gradient tensors each time, as after ``zero_grad(set_to_none=False)``."""
    for module, value in zip(model.children(), gradients, strict=True):
        for parameter in module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.fill_(value)
    optimizer.step()


def test_gradients_are_summed_as_vectors_and_the_norm_is_taken_of_the_sum() -> None:
    model, optimizer, policy = _toy()
    _update(model, optimizer, 1.0, 1.0, 1.0)
    _update(model, optimizer, -3.0, 1.0, 2.0)
    assert policy.collect(2) == {"norms": {"0": 4.0, "1": 4.0, "2": 6.0}, "before": {}}  # weight and bias: |-2| * 2
    _update(model, optimizer, 1.0, 3.0, 9.0)
    assert policy.collect(3) == {"norms": {"0": 2.0, "1": 6.0, "2": 18.0}, "before": {"0": 4.0, "1": 4.0, "2": 6.0}}
    assert policy.collect(4)["norms"] == {}


def test_sparse_gradients_are_summed_as_dense_ones() -> None:
    said = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 2))
        optimizer, policy = SGD(model.parameters(), lr=0.1), _policy()
        policy.watch(model, optimizer, discover(model, (torch.arange(3),), {}, "layer"), ((), {}))
        for rows in ([1, 1, 5], [5, 6, 7]):
            optimizer.zero_grad()
            model(torch.tensor(rows)).square().sum().backward()
            optimizer.step()
        said.append(policy.collect(2)["norms"])
    assert said[0] == said[1]
    assert all(norm > 0.0 for norm in said[0].values())


def test_a_closed_freezer_leaves_no_hook_on_the_optimizer() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, policy="autofreeze", total_steps=100)
    freezer.model(torch.randn(3, 2)).sum().backward()
    assert optimizer._optimizer_step_pre_hooks
    freezer.close()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_fused_step_under_a_grad_scaler_adds_unscaled_gradients_and_no_overflow() -> None:
    model, _, policy = _toy()
    optimizer = AdamW(model.parameters(), lr=0.0, fused=True)
    policy.watch(model, optimizer, discover(model, (torch.zeros(2, 1),), {}, "layer"), ((), {}))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for value in (0.5, math.inf, 0.25):
        scaler.scale(torch.zeros(1))  # the scale comes into being with the first loss
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value * scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    assert policy.collect(3)["norms"] == {"0": 1.5, "1": 1.5, "2": 1.5}


def test_blocks_before_the_boundary_freeze_with_all_their_units() -> None:
    run = Run(_policy)
    names = [unit.name for unit in run.units]
    assert [unit.block for unit in run.units] == ["stem", *(f"blocks.{i}" for i in (0, 0, 1, 1, 2, 2)), "head"]
    before = dict.fromkeys(names, 1.0)
    norms = dict(zip(names, [1.1, 1.1, 1.3, 1.3, 1.3, 1.5, 1.5, 1.9], strict=True))

    def said(**frozen_and_extra: Any) -> list[str]:
        run.frozen = frozen_and_extra.pop("frozen", set())
        return [v.unit for v in run.policy.decide(run.context(frozen_and_extra))]

    # changes by block: 0.1, 0.2, 0.3, 0.5, 0.9; their median 0.3
    assert said(norms=norms, before=before) == ["stem", "blocks.0.0", "blocks.0.4"]
    frozen = {"stem", "blocks.0.0", "blocks.0.4"}  # then 0.3, 0.5, 0.9; their median 0.5
    assert said(norms=norms, before=before, frozen=frozen) == ["blocks.1.0", "blocks.1.4"]
    assert said(norms=norms, before={}) == []
    assert said(norms=norms, before={n: v for n, v in before.items() if n != "stem"}) == []  # just thawed


def test_the_option_sets_the_interval() -> None:
    config = FreezeConfig(policy="autofreeze", options={"intervals": 10})
    assert config.schedule(200).decide_every == 20
    assert config.schedule(5).decide_every == 1
    assert 10 <= 1600 // FreezeConfig(policy="autofreeze").schedule(1600).decide_every <= 20
    with pytest.raises(ConfigError, match="not both") as caught:
        make(FreezeConfig(policy="autofreeze", decide_every=3, options={"intervals": 10}))
    assert caught.value.pointer == "/options/intervals"


@pytest.mark.parametrize("cut", [1, 5, 6, 11])
def test_a_resume_in_the_middle_of_an_interval_says_the_same(cut: int) -> None:
    whole = Run(_policy, every=3)
    whole.watch()
    whole.go(24)
    assert any(verdicts for _, verdicts in whole.said)
    first = Run(_policy, every=3)
    first.watch()
    first.go(cut)
    second = first.resumed(_policy)
    second.go(24)
    assert first.said + second.said == whole.said
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True))
