"""A learning rate for each unit: bit for bit what hand-made groups give, and nobody else sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from freezer.errors import ConfigError
from freezer.rates import UnitRates, initial_rate

MAKERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda g: SGD(g, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False),
    "sgd-foreach": lambda g: SGD(g, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "sgd-fused": lambda g: SGD(g, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda g: AdamW(g, lr=0.01, weight_decay=0.1, foreach=False),
    "adamw-foreach": lambda g: AdamW(g, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw-fused": lambda g: AdamW(g, lr=0.01, weight_decay=0.1, fused=True),
    "adam-tensor-rate": lambda g: Adam(g, lr=torch.tensor(0.01), foreach=False),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.c(self.b(self.a(x).relu()).relu())
        return result


def _model() -> Net:
    torch.manual_seed(0)
    return Net()


def _groups(model: Net) -> list[dict[str, Any]]:
    """Two groups that both cut through the units, one with a rate of its own; the last layer belongs to no unit."""
    first = [model.a.weight, model.b.weight, model.c.weight]
    return [{"params": first}, {"params": [model.a.bias, model.b.bias, model.c.bias], "weight_decay": 0.0}]


def _unit_of(model: Net) -> dict[int, str]:
    return {id(p): name for name, layer in (("a", model.a), ("b", model.b)) for p in layer.parameters()}


def _loss(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(4, 5, generator=generator), torch.randint(3, (4,), generator=generator)
    return nn.functional.cross_entropy(model(inputs), targets)


def _train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        _loss(model, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def _shape(optimizer: Optimizer) -> list[dict[str, Any]]:
    return copy.deepcopy(optimizer.state_dict()["param_groups"])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_factor_is_a_group_with_that_rate_bit_for_bit(kind: str) -> None:
    model = _model()
    optimizer = MAKERS[kind](_groups(model))
    before, groups = _shape(optimizer), optimizer.param_groups
    rates = UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5, "b": 0.25})
    _train(model, optimizer, range(5))

    other = _model()
    by_hand = []
    for group in _groups(other):
        for parameter, factor in zip(group["params"], (0.5, 0.25, 1.0), strict=True):
            by_hand.append({**group, "params": [parameter]})
            by_hand[-1]["factor"] = factor
    reference = MAKERS[kind](by_hand)
    for group in reference.param_groups:
        group["lr"] = group["lr"] * group.pop("factor")
    _train(other, reference, range(5))
    assert _same(model, other)
    assert optimizer.param_groups is groups
    assert _shape(optimizer) == before
    rates.close()
    assert "step" not in vars(optimizer)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_factor_of_nothing_moves_nothing_not_even_moments_or_the_sign_of_a_zero(kind: str) -> None:
    model = _model()
    with torch.no_grad():
        model.a.bias.fill_(-0.0)
    optimizer = MAKERS[kind](_groups(model))
    factors = {"a": 1.0}
    UnitRates(optimizer, _unit_of(model), lambda: factors)
    _train(model, optimizer, range(2))
    factors["a"] = 0.0
    weights = [p.detach().clone() for p in model.a.parameters()]
    moments = copy.deepcopy([optimizer.state[p] for p in model.a.parameters()])
    moving = model.b.weight.detach().clone()
    for step in range(2, 5):
        _train(model, optimizer, range(step, step + 1))
        model.a.weight.grad = torch.full_like(model.a.weight, torch.nan)
        optimizer.step()
    for parameter, weight, state in zip(model.a.parameters(), weights, moments, strict=True):
        assert torch.equal(parameter.view(torch.int32), weight.view(torch.int32))
        assert all(torch.equal(optimizer.state[parameter][k], v) for k, v in state.items() if isinstance(v, Tensor))
    assert not torch.equal(model.b.weight, moving)


class GroupStep(Optimizer):
    """Adam that counts its steps in the group, as apex' FusedAdam and timm's Lamb do; ``tensor``: and in place.

    ``by_rate``: it also sums up its rates there, as schedule-free optimizers do.
    """

    def __init__(self, groups: Any, *, tensor: bool = False, by_rate: bool = False) -> None:
        self.by_rate = by_rate
        super().__init__(groups, {"lr": 0.01})
        for group in self.param_groups if tensor else ():
            group["step"] = torch.zeros(())

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if isinstance(group.get("step"), Tensor):
                group["step"] += 1
            else:
                group["step"] = group.get("step", 0) + 1
            if self.by_rate:
                group["sum"] = group.get("sum", 0.0) + group["lr"]
            first, second = 1 - 0.9 ** float(group["step"]), 1 - 0.999 ** float(group["step"])
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p)).lerp_(p.grad, 0.1)
                v = self.state[p].setdefault("v", torch.zeros_like(p)).lerp_(p.grad.square(), 0.001)
                p.addcdiv_(m / first, (v / second).sqrt() + 1e-8, value=-group["lr"])


@pytest.mark.parametrize("tensor", [False, True])
def test_what_an_optimizer_writes_into_its_groups_is_kept(tensor: bool) -> None:
    model, other = _model(), _model()
    optimizer, plain = GroupStep(_groups(model), tensor=tensor), GroupStep(_groups(other), tensor=tensor)
    rates = UnitRates(optimizer, _unit_of(model), lambda: {"a": 1.0, "b": 1.0})
    _train(model, optimizer, range(5))
    _train(other, plain, range(5))
    assert [float(group["step"]) for group in optimizer.param_groups] == [5.0, 5.0]
    assert _same(model, other)
    rates.close()
    for a, b in ((model, optimizer), (other, plain)):  # and the step without pieces goes on from there
        _train(a, b, range(5, 8))
    assert _same(model, other)
    assert _shape(optimizer) == _shape(plain)


def test_what_differs_with_the_rate_cannot_be_kept_in_a_group() -> None:
    model = _model()
    optimizer = GroupStep(_groups(model), by_rate=True)
    groups = optimizer.param_groups
    UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5})
    with pytest.raises(ConfigError, match="GroupStep keeps 'sum' in its parameter groups"):
        _train(model, optimizer, range(1))
    assert optimizer.param_groups is groups


def test_factors_are_of_the_initial_rate_and_other_parameters_follow_the_schedule() -> None:
    """One schedule made before, one after: both keep their own groups, and wrap the step as they like."""
    seen: list[list[float]] = []
    model, other = _model(), _model()
    optimizer = SGD(_groups(model), lr=0.1)
    first = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    rates = UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5})
    second = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    hook = optimizer.register_step_pre_hook(lambda o, *_: seen.append([float(g["lr"]) for g in o.param_groups]))
    groups = _groups(other)
    a = [{**group, "params": group["params"][:1]} for group in groups]
    rest = [{**group, "params": group["params"][1:]} for group in groups]
    by_hand = SGD([*rest, *a], lr=0.1)
    for step in range(5):
        _train(model, optimizer, range(step, step + 1))
        now = optimizer.param_groups[0]["lr"]
        assert len(optimizer.param_groups) == 2
        for group, rate in zip(by_hand.param_groups, (now, now, 0.05, 0.05), strict=True):
            group["lr"] = rate
        _train(other, by_hand, range(step, step + 1))
        first.step()
        second.step()
    assert _same(model, other)
    assert seen[0] == [0.1, 0.05, 0.1, 0.05]
    assert seen[4][0] < seen[4][1] == 0.05
    rates.close()
    _train(model, optimizer, range(5, 6))
    assert len(seen[5]) == 2
    hook.remove()


def test_a_step_that_raises_leaves_the_users_groups() -> None:
    model = _model()
    optimizer = AdamW(_groups(model), lr=0.01)
    groups, before = optimizer.param_groups, _shape(optimizer)
    UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5, "b": 0.0})

    def fails(*_: Any) -> None:
        assert len(optimizer.param_groups) > 2
        raise RuntimeError("no")

    handle = optimizer.register_step_pre_hook(fails)
    with pytest.raises(RuntimeError, match="no"):
        _train(model, optimizer, range(1))
    handle.remove()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert optimizer.param_groups is groups
    assert _shape(optimizer) == before


@pytest.mark.parametrize("kind", ["sgd", "adamw-foreach", "adamw-fused", "sgd-fused"])
def test_under_a_grad_scaler(kind: str) -> None:
    """Overflow in step 2: skipped in both runs alike."""

    def train(model: nn.Module, optimizer: Optimizer) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for step in range(5):
            optimizer.zero_grad()
            scaler.scale(_loss(model, step)).backward()  # type: ignore[no-untyped-call]
            if step == 2:
                next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update()

    model, other = _model(), _model()
    optimizer, reference = MAKERS[kind](_groups(model)), MAKERS[kind](_groups(other))
    UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5, "b": 0.5})
    for group in list(reference.param_groups):
        tail = {**group, "params": group["params"][2:]}
        group["params"], group["lr"] = group["params"][:2], group["lr"] * 0.5
        reference.add_param_group(tail)
    train(model, optimizer)
    train(other, reference)
    assert _same(model, other)


def test_state_goes_over_into_an_optimizer_without_rates_and_back() -> None:
    model = _model()
    optimizer = AdamW(_groups(model), lr=0.01)
    UnitRates(optimizer, _unit_of(model), lambda: {"a": 0.5})
    _train(model, optimizer, range(2))
    other = _model()
    other.load_state_dict(model.state_dict())
    resumed = AdamW(_groups(other), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    UnitRates(resumed, _unit_of(other), lambda: {"a": 0.5}, initial=[0.01, 0.01])
    _train(model, optimizer, range(2, 4))
    _train(other, resumed, range(2, 4))
    assert _same(model, other)


def test_a_closure_is_evaluated_as_ever() -> None:
    model, other = _model(), _model()
    for net in (model, other):
        optimizer = SGD(_groups(net), lr=0.1)
        if net is model:
            UnitRates(optimizer, _unit_of(net), lambda: {"a": 0.0, "b": 1.0})
        else:
            for group in optimizer.param_groups:
                del group["params"][0]
        for step in range(3):

            def closure(net: nn.Module = net, optimizer: Optimizer = optimizer, step: int = step) -> float:
                optimizer.zero_grad()
                loss = _loss(net, step)
                loss.backward()  # type: ignore[no-untyped-call]
                return float(loss.detach())

            assert optimizer.step(closure) > 0.0
    assert _same(model, other)


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf")])
def test_factors_that_are_none_are_refused(factor: float) -> None:
    model = _model()
    optimizer = SGD(_groups(model), lr=0.1)
    given: Mapping[str, float] = {"a": factor}
    UnitRates(optimizer, _unit_of(model), lambda: given)
    with pytest.raises(ConfigError, match="unit 'a' the learning-rate factor"):
        _train(model, optimizer, range(1))


def test_optimizers_that_move_all_as_one_are_refused() -> None:
    model = _model()
    with pytest.raises(ConfigError, match="LBFGS"):
        UnitRates(torch.optim.LBFGS(model.parameters()), {}, dict)
    with pytest.raises(ConfigError, match="3 initial rates for 2"):
        UnitRates(SGD(_groups(model), lr=0.1), {}, dict, initial=[0.1] * 3)


def test_the_initial_rate_of_one_cycle_is_the_one_it_rises_to() -> None:
    optimizer = SGD(_model().parameters(), lr=0.1)
    assert initial_rate(optimizer.param_groups[0]) == 0.1
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)
    assert initial_rate(optimizer.param_groups[0]) == 1.0
