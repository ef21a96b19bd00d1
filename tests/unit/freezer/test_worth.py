"""The price of a frozen set against the real model, optimizer and gradients; and what pays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from freezer.cost import step_flops
from freezer.held import measure_held
from freezer.saved import measure_saved
from freezer.units import survey
from freezer.worth import Price, pays, price, shortfall, unit_prices
from tests.unit.freezer.toys import ResNet, Transformer, images, tokens

CASES = [
    (ResNet, images),
    (Transformer, tokens),
    (lambda: Transformer(tied=True), tokens),
    (lambda: Transformer(unused=True), tokens),
]


def build(make: Any, batch: Any, stepped: bool = True) -> Any:
    torch.manual_seed(0)
    model, example = make(), batch()
    found = survey(model, (example,), {}, "layer")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    saved = measure_saved(model, found.units, (example,))
    if stepped:
        model(example).square().mean().backward()
        optimizer.step()
    return model, found, optimizer, measure_held(model, optimizer, found.units, saved, stepped=stepped)


@pytest.mark.parametrize(("make", "batch"), CASES)
def test_bytes_are_those_of_real_gradients_and_real_state(make: Any, batch: Any) -> None:
    model, found, optimizer, held = build(make, batch)
    whole: Any = price(found, (), held)
    assert whole.allreduce_bytes == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    state = [v for values in optimizer.state.values() for v in values.values()]
    assert whole.optimizer_bytes == sum(v.nbytes for v in state)
    assert whole.activation_bytes == held.saved.total
    frozen = [u.name for u in found.units if u.used][:3]
    less: Any = price(found, frozen, held)
    gone = [p for u in found.units if u.name in frozen for n, p in model.named_parameters() if n in u.params]
    assert whole.allreduce_bytes - less.allreduce_bytes == sum(p.nbytes for p in gone)
    assert whole.optimizer_bytes - less.optimizer_bytes == sum(
        v.nbytes for p in gone for v in optimizer.state[p].values()
    )
    assert less.activation_bytes < whole.activation_bytes
    assert not less.activation_estimated or "embed" in frozen  # the tied embedding runs at the end too


@pytest.mark.parametrize(("make", "batch"), CASES)
def test_units_add_up_to_the_whole(make: Any, batch: Any) -> None:
    _, found, _, held = build(make, batch)
    alone, whole = unit_prices(found, held), price(found, (), held)
    assert list(alone) == [unit.name for unit in found.units]
    for field in ("forward", "input_grad", "weight_grad", "activation_bytes", "allreduce_bytes", "optimizer_bytes"):
        assert sum(getattr(p, field) for p in alone.values()) == getattr(whole, field), field
    assert whole.flops == step_flops(found).total


def test_user_frozen_layers_have_no_price_of_their_own_and_none_of_their_bytes_count() -> None:
    def make() -> nn.Module:
        model = ResNet()
        model.layer1.requires_grad_(False)
        return model

    model, found, _, held = build(make, images)
    whole = price(found, (), held)
    assert whole.allreduce_bytes == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert sum(p.forward for p in unit_prices(found).values()) == whole.forward - sum(s.flops for s in found.fixed)


def test_optimizer_state_is_unknown_before_the_first_step_and_none_for_plain_sgd_after_it() -> None:
    model, found, _, held = build(ResNet, images, stepped=False)
    assert price(found, (), held).optimizer_bytes is None
    assert set(held.optimizer.values()) == {None}
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    assert price(found, (), measure_held(model, sgd, found.units, stepped=True)).optimizer_bytes == 0


def test_a_unit_frozen_since_before_the_first_step_has_unknown_state_and_the_rest_a_known_sum() -> None:
    model, example = ResNet(), images()
    found = survey(model, (example,), {}, "layer")
    first = found.units[0]
    for name, p in model.named_parameters():
        p.requires_grad_(name not in first.params)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model(example).square().mean().backward()
    optimizer.step()
    held = measure_held(model, optimizer, found.units, stepped=True)
    assert held.optimizer[first.name] is None
    assert price(found, (), held).optimizer_bytes is None
    assert price(found, (first.name,), held).optimizer_bytes == sum(
        v.nbytes for s in optimizer.state.values() for v in s.values()
    )


def test_without_measurements_bytes_are_unknown() -> None:
    found = survey(ResNet(), (images(),), {}, "layer")
    bare = price(found)
    assert (bare.activation_bytes, bare.allreduce_bytes, bare.optimizer_bytes) == (None, None, None)
    assert bare.to_dict()["forward"] == bare.forward > 0


@pytest.mark.parametrize(
    ("gain", "remaining", "min_gain", "good"),
    [
        (10, 11, 0.0, True),
        (10, 10, 0.0, False),  # exactly one step back: not more than it cost
        (10, 10_000, 0.1, True),
        (10, 10_000, 0.11, False),
        (0, 10_000, 0.0, False),
        (50, 0, 0.0, False),
    ],
)
def test_what_pays(gain: int, remaining: int, min_gain: float, good: bool) -> None:
    full, after = (Price(forward=100 - x, input_grad=0, weight_grad=0) for x in (0, gain))
    assert pays(full, after, full, remaining, min_gain) is good
    reason = shortfall(100, 100 - gain, 100, remaining, min_gain)
    assert (reason is None) is good
    assert good or "full step" in str(reason)
