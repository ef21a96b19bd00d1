"""The price of a step against FLOPs counted around a real forward and backward pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from freezer.apply import Applier
from freezer.cost import Costs, leading, step_flops
from freezer.flops import flop_counter
from freezer.units import survey
from tests.unit.freezer.toys import ResNet, Transformer, images, tokens

RESNET = [unit.name for unit in survey(ResNet(), (images(),), {}, "layer").units]
TRANSFORMER = [unit.name for unit in survey(Transformer(), (tokens(),), {}, "layer").units]
TIED = [unit.name for unit in survey(Transformer(tied=True), (tokens(),), {}, "layer").units]


def counted(model: nn.Module, batch: torch.Tensor) -> int:
    with flop_counter() as counter:
        model(batch).square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("make", "batch", "frozen"),
    [
        (ResNet, images, ()),
        (ResNet, images, RESNET[:1]),
        (ResNet, images, RESNET[:3]),
        (ResNet, images, RESNET[:6]),  # up to the first convolution of a block with a shortcut of its own
        (ResNet, images, RESNET[:7]),
        (ResNet, images, RESNET[:-1]),
        (ResNet, images, RESNET[2:4]),  # not from the input: weight gradients alone are saved
        (ResNet, images, [RESNET[0], RESNET[4], RESNET[7]]),
        (Transformer, tokens, ()),
        (Transformer, tokens, TRANSFORMER[:1]),
        (Transformer, tokens, TRANSFORMER[:3]),  # of the attention, v alone is trained: its backward is still needed
        (Transformer, tokens, TRANSFORMER[:5]),
        (Transformer, tokens, TRANSFORMER[:8]),
        (Transformer, tokens, TRANSFORMER[:-1]),
        (Transformer, tokens, TRANSFORMER[3:9]),
        (lambda: Transformer(tied=True), tokens, ()),
        (lambda: Transformer(tied=True), tokens, TIED[:1]),
        (lambda: Transformer(tied=True), tokens, TIED[:7]),
    ],
)
def test_estimate_equals_what_a_real_step_costs(make, batch, frozen) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model, example = make(), batch()
    found = survey(model, (example,), {}, "layer")
    Applier(model, found.units, torch.optim.SGD(model.parameters(), 0.1)).apply(frozen)
    assert step_flops(found, frozen).total == counted(model, example)


def test_user_frozen_layers_cost_as_they_really_do() -> None:
    model, example = ResNet(), images()
    model.layer1.requires_grad_(False)
    found = survey(model, (example,), {}, "layer")
    assert step_flops(found).total == counted(model, example)
    model.conv.requires_grad_(False)
    model.bn.requires_grad_(False)
    found = survey(model, (example,), {}, "layer")
    assert step_flops(found).total == counted(model, example)


def test_a_prefix_saves_input_gradients_and_a_hole_does_not() -> None:
    found = survey(ResNet(), (images(),), {}, "layer")
    full = step_flops(found)
    prefix, hole = step_flops(found, RESNET[:3]), step_flops(found, RESNET[1:3])
    assert hole.input_grad == full.input_grad
    assert prefix.input_grad < full.input_grad
    assert hole.weight_grad < full.weight_grad
    assert prefix.forward == full.forward


def test_leading_run() -> None:
    units = survey(ResNet(), (images(),), {}, "layer").units
    assert leading(units, {RESNET[0], RESNET[1], RESNET[4]}) == tuple(RESNET[:2])
    assert leading(units, {RESNET[4]}) == ()


def test_counters_keep_measured_and_estimated_apart() -> None:
    found = survey(ResNet(), (images(),), {}, "layer")
    frozen = {RESNET[0], RESNET[4]}
    now, full = step_flops(found, frozen), step_flops(found)
    costs = Costs()
    costs.add_passes(1.5, 2, now, full, step_flops(found, RESNET[:1]))
    costs.add_reduced(600, 2, 500)
    costs.spend("snapshot", 0.5)
    costs.spend("snapshot", 0.25)
    savings = costs.savings()
    assert savings["measured"]["allreduce_bytes"] == 600
    assert savings["measured"]["overhead_seconds"] == 0.75
    estimated = savings["estimated"]
    assert estimated["flops_full_training"] == 3 * full.total
    assert estimated["flops_ratio"] == pytest.approx(now.total / full.total)
    assert estimated["allreduce_bytes_ratio"] == 0.6
    saved = estimated["flops_saved_by_prefix"] + estimated["flops_saved_elsewhere"]
    assert saved == estimated["flops_full_training"] - estimated["flops_this_run"]
    assert estimated["flops_saved_elsewhere"] > 0
    assert Costs.from_dict(json.loads(json.dumps(costs.to_dict()))) == costs


def test_no_work_has_no_ratio() -> None:
    assert Costs().savings()["estimated"]["flops_ratio"] is None
