"""The price of a step against FLOPs counted around a real forward and backward pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from freezer.apply import Applier
from freezer.cost import Costs, forward_flops_of, leading, step_flops
from freezer.flops import flop_counter
from freezer.meter import Energy, Peak
from freezer.steptime import KEPT, StepTimes
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


def resumed(costs: Costs) -> Costs:
    return Costs.from_dict(json.loads(json.dumps(costs.to_dict())))


class TestForwardCache:
    @pytest.mark.parametrize(("make", "batch"), [(ResNet, images), (Transformer, tokens)])
    @pytest.mark.parametrize("count", [0, 1, 3, 5])
    def test_a_prefix_that_is_not_run_saves_its_forward(self, make, batch, count) -> None:  # type: ignore[no-untyped-def]
        found = survey(make(), (batch(),), {}, "layer")
        skipped = found.units[:count]
        executed = [path for unit in skipped for path in unit.modules]
        saved = forward_flops_of(found, executed)
        upper = sum(unit.flops for unit in skipped)
        assert saved == upper - (skipped[-1].sites[-1].pair_flops if skipped else 0)
        assert saved <= step_flops(found).forward

    def test_a_block_as_counted_around_its_real_forward(self) -> None:
        model, example = Transformer(), tokens()
        found = survey(model, (example,), {}, "layer")
        with flop_counter() as counter, torch.no_grad():
            model.blocks[0](model.embed(example) + model.cls_token)
        executed = ["embed", *(name for name, _ in model.named_modules() if name.startswith("blocks.0"))]
        assert forward_flops_of(found, executed) == counter.get_total_flops()

    def test_of_a_block_that_ran_in_part_the_part_counts(self) -> None:
        layers = {unit.name: unit for unit in survey(ResNet(), (images(),), {}, "layer").units}
        found = survey(ResNet(), (images(),), {}, "block")
        unit = next(u for u in found.units if "layer1.0.conv2" in u.modules)
        assert unit.flops > forward_flops_of(found, ["layer1.0.conv1"]) == layers["layer1.0.conv1"].flops > 0

    def test_modules_without_weights_that_a_cut_does_not_name_take_nothing_away(self) -> None:
        """Dropouts belong to units, and a cut names modules with parameters alone."""
        model, example = ResNet(), images()
        found = survey(model, (example,), {}, "layer")
        assert "drop" in found.units[0].modules
        executed = [name for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
        assert forward_flops_of(found, executed) == sum(unit.flops for unit in found.units) > 0

    def test_layers_that_the_user_froze_count_when_the_cut_lies_behind_them(self) -> None:
        model = ResNet()
        model.conv.requires_grad_(False)
        model.bn.requires_grad_(False)
        found = survey(model, (images(),), {}, "layer")
        first = found.units[0]
        executed = ["conv", "bn", *first.modules]
        assert forward_flops_of(found, executed) == first.flops + found.fixed[0].flops > first.flops

    def test_is_a_line_of_its_own(self) -> None:
        found = survey(ResNet(), (images(),), {}, "layer")
        now, full = step_flops(found, RESNET[:2]), step_flops(found)
        costs = Costs()
        costs.add_passes(2, 3, now, full, now, cached=1000.0)
        estimated = costs.savings()["estimated"]
        assert estimated["flops_saved_by_cache"] == 3000
        assert estimated["flops_saved_elsewhere"] == 0
        assert estimated["flops_this_run"] == 6 * now.total - 3000
        parts = ("prefix", "elsewhere", "cache")
        whole = estimated["flops_full_training"] - estimated["flops_this_run"]
        assert (
            sum(estimated[f"flops_saved_by_{p}" if p != "elsewhere" else "flops_saved_elsewhere"] for p in parts)
            == whole
        )
        assert resumed(costs) == costs


class TestSeconds:
    def test_full_training_is_estimated_from_the_steps_with_nothing_frozen(self) -> None:
        costs = Costs()
        for second in (9.0, 2.0, 2.0):  # the first one warms up
            costs.spend_step(0, second)
        for _ in range(5):
            costs.spend_step(1, 1.0)
        costs.spend_step(2, 2.0, unfrozen=True)  # all thawed
        savings = costs.savings()
        assert savings["measured"]["timed_steps"] == 9
        assert savings["measured"]["step_seconds"] == 20.0
        assert savings["measured"]["step_seconds_by_plan"]["1"] == {"steps": 5, "seconds": 5.0, "median": 1.0}
        assert savings["estimated"]["full_training_seconds"] == 18.0
        assert savings["estimated"]["seconds_ratio"] == pytest.approx((3 * 2 + 5 * 1 + 2) / 18)
        assert costs.report()["seconds"] == {"measured": 20.0, "full_training_estimate": 18.0}
        assert resumed(costs) == costs

    def test_without_such_a_step_there_is_no_estimate(self) -> None:
        costs = Costs()
        assert costs.savings()["estimated"]["seconds_ratio"] is None
        costs.spend_step(1, 1.0)
        assert costs.savings()["estimated"]["full_training_seconds"] is None
        assert costs.savings()["estimated"]["seconds_ratio"] is None

    def test_a_sample_of_many_steps_is_small_and_evenly_spread(self) -> None:
        times = StepTimes(True)
        for step in range(1001):
            times.add(float(step))
        assert len(times.sample) <= KEPT
        assert times.sample == [float(s) for s in range(0, 1001, times.every)]
        assert times.typical == pytest.approx(500, abs=times.every)
        assert (times.steps, times.seconds) == (1001, 500500.0)


class TestMeters:
    def test_peaks_are_kept_and_energy_adds_up_over_attempts(self) -> None:
        costs = Costs()
        costs.note(Peak(10, "process_resident"), Energy(1.5, "RAPL"))
        costs = resumed(costs)
        costs.note(Peak(7, "process_resident"), Energy(2.0, "RAPL"))
        measured = costs.savings()["measured"]
        assert measured["peak_memory_bytes_process_resident"] == 10
        assert (measured["energy_joules"], measured["energy_kind"]) == (3.5, "RAPL")

    @pytest.mark.parametrize("parts", [(None, 1.0), (1.0, None)])
    def test_energy_of_a_part_is_not_given_as_the_whole(self, parts: tuple[float | None, ...]) -> None:
        costs = Costs()
        for joules in parts:
            costs.note(Peak(1, "process_resident"), Energy(joules, "RAPL" if joules else "not measured: no sensor"))
        measured = resumed(costs).savings()["measured"]
        assert (measured["energy_joules"], measured["energy_kind"]) == (None, "not measured: no sensor")

    def test_energies_of_different_kinds_are_not_added(self) -> None:
        costs = Costs()
        for kind in ("RAPL", "GPU"):
            costs.note(Peak(1, "process_resident"), Energy(1.0, kind))
        measured = costs.savings()["measured"]
        assert measured["energy_joules"] is None
        assert measured["energy_kind"] == "parts were measured in different ways: RAPL; GPU"


def test_a_checkpoint_of_an_older_version_is_read() -> None:
    old = {"flops": 1.0, "flops_full": 2.0, "flops_prefix": 2.0, "bytes_full": 3, "bytes_measured": 2, "syncs": 1,
           "seconds": {"snapshot": 0.5}}  # fmt: skip
    costs = Costs.from_dict(old)
    costs.note(Peak(1, "process_resident"), Energy(1.0, "RAPL"))
    savings = costs.savings()
    assert savings["estimated"]["flops_ratio"] == 0.5
    assert savings["measured"]["timed_steps"] == 0
    assert savings["measured"]["energy_joules"] is None, "of a part of the run only"
    assert "earlier part" in savings["measured"]["energy_kind"]
