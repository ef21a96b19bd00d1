"""Freeze first, thaw last: which units, when, at which rate, and a run through the real engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD

from freezer.config import FreezeConfig
from freezer.freezer import Freezer
from freezer.policies.base import PolicyContext
from freezer.policies.thaw_last import ThawLastPolicy, opening, stem
from freezer.units import Unit
from tests.unit.freezer.policies.driving import Layers, batch

BLOCKS = ["embed", "embed", "a", "a", "b", "b", "c", "c", "head"]


def _units(flops: tuple[int, ...] = (0, 0, 5, 5, 5, 5, 5, 5, 1)) -> list[Unit]:
    return [
        Unit(name=f"u{i}", index=i, block=block, params=(f"u{i}",), modules=(), flops=f, activation_bytes=1,
             parameters=1)
        for i, (block, f) in enumerate(zip(BLOCKS, flops, strict=True))
    ]  # fmt: skip


def _config(**options: Any) -> FreezeConfig:
    return FreezeConfig(policy="thaw-last", decide_every=5, options=options)


@pytest.mark.parametrize(("share", "count"), [(0.0, 2), (0.2, 2), (0.33, 4), (0.67, 6), (0.66, 6), (0.99, 8), (1.0, 8)])
def test_whole_blocks_are_frozen_up_to_the_share_and_never_the_head(share: float, count: int) -> None:
    assert opening(_units(), share) == count


def test_the_stem_is_what_comes_before_the_first_flop_and_at_least_a_unit() -> None:
    assert stem(_units()) == 2
    assert stem(_units((5,) * 9)) == 1
    assert opening(_units()[-1:], 1.0) == 0  # a model of one unit has nothing to freeze


def _said(policy: ThawLastPolicy, step: int, frozen: set[str]) -> tuple[list[str], list[str]]:
    context = PolicyContext(step=step, total_steps=100, units=_units(), frozen=frozenset(frozen), windows={},
                            learning_rate=1, initial_learning_rate=1, config=policy.config)  # fmt: skip
    verdicts = policy.decide(context)
    return [v.unit for v in verdicts if v.converged], [v.unit for v in verdicts if v.thaw]


def test_freezes_at_the_start_and_thaws_all_but_the_stem_once() -> None:
    policy = ThawLastPolicy(_config(thaw=0.78))
    first = ["u0", "u1", "u2", "u3", "u4", "u5"]
    assert policy.stage(100) == 80
    assert _said(policy, 0, set()) == (first, [])
    assert _said(policy, 75, {*first, "u6"}) == ([], [])
    assert _said(policy, 80, {*first, "u6"}) == ([], ["u2", "u3", "u4", "u5", "u6"])
    assert _said(policy, 85, {"u0", "u1", "u6"}) == ([], [])  # frozen by order since


def test_the_rate_rises_stays_and_starts_anew_at_the_thaw() -> None:
    policy = ThawLastPolicy(_config(thaw=0.78))
    rate = [set(policy.rates(step, 100, _units()).values()) for step in range(100)]
    assert all(len(values) == 1 for values in rate)
    at = [values.pop() for values in rate]
    assert at[0] == pytest.approx(1 / 8.1)
    assert at[8:81] == [1.0] * 73
    assert at[81] < at[82] < at[83] > at[84] > at[99] > 0.0  # the verdict of step 80 takes effect after step 81
    assert max(at) <= 1.0


def test_a_thaw_that_no_stage_follows_never_comes() -> None:
    policy = ThawLastPolicy(_config(thaw=0.99))
    assert policy.stage(100) == 100
    assert set(policy.rates(99, 100, _units()).values()) == {1.0}


def test_a_run_through_the_engine_moves_the_frozen_weights_only_after_the_thaw() -> None:
    torch.manual_seed(0)
    model = Layers()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    config = FreezeConfig(policy="thaw-last", decide_every=4, cache="off", options={"share": 0.7, "thaw": 0.5})
    freezer = Freezer(model, optimizer, config, total_steps=16)
    before = model.blocks[0][0].weight.detach().clone()  # type: ignore[index]
    moved = []
    for step in range(16):
        optimizer.zero_grad()
        freezer.model(batch(step)).square().mean().backward()
        optimizer.step()
        freezer.step()
        moved.append(not torch.equal(model.blocks[0][0].weight, before))  # type: ignore[index]
    assert moved == [False] * 9 + [True] * 7
    assert [(event["step"], event["cause"]) for event in freezer.history] == [(0, "policy"), (9, "policy")]
    assert freezer.plan.frozen == ("stem",)
    freezer.close()
