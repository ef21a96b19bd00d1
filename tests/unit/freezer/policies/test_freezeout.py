"""FreezeOut by hand: freezing times, cosines, verdicts, and a run that follows them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim import SGD

from freezer.config import FreezeConfig
from freezer.freezer import Freezer
from freezer.policies.base import PolicyContext
from freezer.policies.freezeout import FreezeOutPolicy
from freezer.rates import UnitRates
from freezer.units import Unit
from tests.unit.freezer.policies.driving import Layers, Run, batch


def _units(count: int = 5, unused: bool = False) -> list[Unit]:
    return [
        Unit(name=f"u{i}", index=i, block="b", params=(f"u{i}",), modules=(), flops=1, activation_bytes=1, parameters=1,
             used=not (unused and i == count - 1))
        for i in range(count)
    ]  # fmt: skip


def _policy(**options: Any) -> FreezeOutPolicy:
    return FreezeOutPolicy(FreezeConfig(policy="freezeout", options=options))


@pytest.mark.parametrize(
    ("how", "times"),
    [
        ("linear", [0.5, 0.625, 0.75, 0.875, 1.0]),
        ("squared", [0.25, 0.390625, 0.5625, 0.765625, 1.0]),
        ("cubic", [0.125, 0.244140625, 0.421875, 0.669921875, 1.0]),
    ],
)
def test_the_times_at_which_units_freeze(how: str, times: list[float]) -> None:
    annealing = _policy(t0=0.5, how=how).annealing
    assert list(annealing.times(_units()).values()) == times
    assert (
        list(_policy(t0=0.5, how=how).annealing.times(_units(6, unused=True)).values()) == times
    )  # it is no layer of the pass


def test_the_defaults_are_the_papers_recommendation() -> None:
    assert _policy().annealing.times(_units())["u0"] == pytest.approx(0.512)
    assert _policy().annealing.scale


def test_each_rate_is_half_a_cosine_to_its_own_end() -> None:
    rates = _policy(t0=0.5, how="linear", scale=False).rates
    assert set(rates(0, 100, _units()).values()) == {1.0}
    at_25 = rates(25, 100, _units())
    assert at_25["u0"] == pytest.approx(0.5)  # half of its way to 0.5
    assert at_25["u2"] == pytest.approx(0.75)  # a third of its way: 0.5 (1 + 0.5)
    assert at_25["u4"] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert [rates(step, 100, _units())["u0"] > 0 for step in (49, 50, 51)] == [True, False, False]
    scaled = _policy(t0=0.5, how="linear").rates(25, 100, _units())
    assert scaled["u0"] == pytest.approx(0.5 / 0.5)
    assert scaled["u2"] == pytest.approx(0.75 / 0.75)


def test_verdicts_from_the_end_on() -> None:
    policy = _policy(t0=0.5, how="linear")

    def said(step: int, frozen: frozenset[str] = frozenset()) -> list[str]:
        context = PolicyContext(step=step, total_steps=1000, units=_units(), frozen=frozen, windows={}, learning_rate=1,
                                initial_learning_rate=1, config=FreezeConfig())  # fmt: skip
        verdicts = policy.decide(context)
        assert all(v.converged and v.probability is None for v in verdicts)
        return [v.unit for v in verdicts]

    assert said(499) == []
    assert said(500) == ["u0"]
    assert said(999) == ["u0", "u1", "u2", "u3"]
    assert said(760, frozenset({"u0", "u1"})) == ["u2"]


def test_one_unit_and_freezing_from_the_start_are_no_division_by_zero() -> None:
    assert _policy().annealing.times(_units(1)) == {"u0": 1.0}
    assert _policy(t0=0.0).rates(0, 100, _units())["u0"] == 0.0


def test_a_run_stands_still_where_the_rate_is_nothing() -> None:
    """Before the stage that freezes it: the rate alone holds the weights."""
    run = Run(lambda: _policy(t0=0.25, how="linear"), every=100, total=24)
    names = {n: u.name for u in run.units for n in u.params}
    unit_of = {id(p): names[n] for n, p in run.model.named_parameters()}
    UnitRates(run.optimizer, unit_of, lambda: run.policy.rates(run.step, run.total, run.units))
    run.go(6)
    stem, second = run.model.stem.weight.detach().clone(), run.model.blocks[0][0].weight.detach().clone()  # type: ignore[index]
    run.go(8)
    assert torch.equal(run.model.stem.weight, stem)
    assert not torch.equal(run.model.blocks[0][0].weight, second)  # type: ignore[index]
    assert run.model(batch(0)).isfinite().all()


def test_the_initial_rate_is_the_one_the_freezer_was_made_with() -> None:
    """Not the one that a loop with a warm-up of its own has set by the first pass: it would stay all along."""
    torch.manual_seed(0)
    model = Layers()
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, FreezeConfig(policy="freezeout", cache="off"), total_steps=16)
    optimizer.param_groups[0]["lr"] = 0.001
    before = model.stem.weight.detach().clone()
    freezer.model(batch(0)).square().mean().backward()
    optimizer.step()
    assert model.stem.weight.grad is not None
    rate = 0.1 / 0.8**3  # scaled: over the time at which the unit freezes
    torch.testing.assert_close(before - model.stem.weight.detach(), rate * model.stem.weight.grad)
    freezer.close()
