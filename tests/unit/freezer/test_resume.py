"""A run that goes on from a checkpoint decides as the one that was never stopped."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.config import FreezeConfig
from freezer.errors import ConfigError, PlanError
from freezer.freezer import Freezer
from freezer.pins import Pins
from freezer.policies.base import PolicyContext, Verdict
from freezer.surveyed import Surveyed
from tests.unit.freezer.toys import ResNet, Scripted, Transformer, images, settings, tokens


class First:
    """Always finds the first unit converged."""

    name = "first"

    def decide(self, context: PolicyContext) -> list[Verdict]:
        first = context.units[0].name
        return [] if first in context.frozen else [Verdict(first, True)]


class Text(nn.Module):
    """What the first layer costs depends on the length, and what the others cost does not."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mid, self.head = nn.Linear(16, 64), nn.Linear(64, 512), nn.Linear(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.emb(x).mean(1)))


class Turns(nn.Module):
    """Encoders by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mid, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor, kind: str) -> Tensor:
        return self.head(self.mid((self.a if kind == "a" else self.b)(x)))


class Run:
    """One process of a run."""

    def __init__(self, model: nn.Module, policy: Any, saved: bytes | None = None, **changes: Any) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        config = FreezeConfig(cache="off", decide_every=5, **changes)
        self.freezer = Freezer(model, self.optimizer, config, policy=policy, total_steps=60)
        if saved is not None:
            self.load(saved)

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.freezer.load_state_dict(state["freezer"])

    def save(self) -> bytes:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "freezer": self.freezer}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        return file.getvalue()

    def step(self, *inputs: Any) -> None:
        self.freezer.model(*inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.freezer.step()


def texts(run: Run, steps: range) -> None:
    """Short ones at first, long ones later."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        run.step(torch.randn(4, 8 if step < 20 else 200, 16, generator=generator))


@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
def test_prices_are_those_of_the_batch_that_the_run_began_with(when: str) -> None:
    torch.manual_seed(0)
    model = Text()
    again = copy.deepcopy(model)
    whole = Run(model, First(), min_gain=0.1)
    texts(whole, range(20))
    saved = whole.save()
    texts(whole, range(20, 40))
    assert whole.freezer.plan.frozen == ()
    assert "emb: it would save" in (whole.freezer.status()["refused"] or "")

    resumed = Run(again, First(), min_gain=0.1)
    if when == "after prepare":
        resumed.freezer.prepare(torch.randn(4, 200, 16))
    resumed.load(saved)
    texts(resumed, range(20, 40))
    assert resumed.freezer.history == []
    assert resumed.freezer.costs.flops == whole.freezer.costs.flops
    assert resumed.freezer.units == whole.freezer.units
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    whole.freezer.close()
    resumed.freezer.close()


@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
def test_a_first_batch_that_takes_another_branch_does_not_matter(when: str) -> None:
    torch.manual_seed(0)
    model = Turns()
    again = copy.deepcopy(model)
    whole = Run(model, "none")
    for step in range(3):
        whole.step(torch.ones(2, 8), "ab"[step % 2])
    whole.freezer.freeze(["a"])
    saved = whole.save()
    resumed = Run(again, "none")
    if when == "after prepare":
        resumed.freezer.prepare(torch.ones(2, 8), "b")
        resumed.freezer.freeze(["b"])
    resumed.load(saved)
    for step in range(3, 7):
        for run in (whole, resumed):
            run.step(torch.ones(2, 8), "ab"[step % 2])
    assert resumed.freezer.plan.frozen == ("a",)
    assert [unit.name for unit in resumed.freezer.units if unit.used] == ["a", "mid", "head"]
    resumed.freezer.thaw()
    assert all(p.requires_grad for p in again.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    whole.freezer.close()
    resumed.freezer.close()


def test_rates_of_units_follow_the_survey_that_is_adopted() -> None:
    first, second = (Run(Turns(), "freezeout") for _ in range(2))
    for step in range(3):
        first.step(torch.ones(2, 8), "ab"[step % 2])
    second.freezer.prepare(torch.ones(2, 8), "b")
    second.load(first.save())
    for run in (first, second):
        for step in range(3, 6):
            run.step(torch.ones(2, 8), "ab"[step % 2])
        run.freezer.close()
        assert "step" not in run.optimizer.__dict__, "wrapped once, and unwrapped"
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_survey_is_plain_values_and_comes_back_the_same() -> None:
    for model, batch in ((ResNet(), images()), (Transformer(tied=True, unused=True), tokens())):
        run = Run(model, "none")
        run.freezer.prepare(batch)
        state = run.freezer.state_dict()["survey"]
        back = Surveyed.from_dict(state)
        assert back == run.freezer._prepared.surveyed
        assert back.fits(model, "layer")
        run.freezer.close()


def test_a_survey_of_another_model_or_grain_is_passed_over() -> None:
    run = Run(ResNet(), "none")
    run.freezer.prepare(images())
    known = run.freezer._prepared.surveyed
    other = ResNet()
    assert known.fits(other, "layer")
    assert not known.fits(other, "block")
    assert not known.fits(Transformer(), "layer")
    other.conv.requires_grad_(False)
    assert not known.fits(other, "layer"), "what is trained is another"
    assert known.fits(other, "layer", ["conv.weight"])
    wide = ResNet()
    wide.fc = nn.Linear(8, 4)
    assert not known.fits(wide, "layer")
    run.freezer.close()


def test_checkpoints_of_earlier_versions_still_go_on() -> None:
    run = Run(ResNet(), Scripted({}))
    for _ in range(3):
        run.step(images())
    run.freezer.pin(["conv"])
    state = run.freezer.state_dict()
    del state["survey"]
    state["pinned"] = ["conv"]
    again = Run(ResNet(), Scripted({}))
    again.freezer.load_state_dict(state)
    again.step(images())
    assert again.freezer.pinned == {"conv"}
    run.freezer.close()
    again.freezer.close()


def test_pins_of_the_settings_and_those_by_hand_stand_beside_each_other() -> None:
    run = Run(ResNet(), Scripted({}), pin=("layer2.*", "conv"))
    run.step(images())
    run.freezer.freeze(["layer1.0.conv1", "layer1.0.conv2"])
    run.freezer.pin(["fc"])
    run.freezer.unpin(["conv"])
    saved = run.save()
    again = Run(ResNet(), Scripted({}), saved, pin=("layer1.0.conv2", "conv"), mode="any")
    again.step(images())
    assert again.freezer.pinned == {"layer1.0.conv2", "fc"}
    assert again.freezer.plan.frozen == ("layer1.0.conv1",), "what is pinned now is thawed"
    assert again.freezer.history[-1]["thawed"] == ["layer1.0.conv2"]
    run.freezer.close()
    again.freezer.close()


def test_what_was_unpinned_before_it_was_pinned_is_no_word_on_later_pins() -> None:
    pins = Pins().unpin(["a"], settings=["b"]).unpin(["b"], settings=["b"])
    assert pins.in_force(["a", "b"]) == {"a"}
    assert pins.pin(["b"]).in_force(["a", "b"]) == {"a", "b"}
    assert Pins.from_state(pins.to_dict()) == pins
    assert Pins.from_state(None) == Pins()


def test_a_named_policy_goes_with_the_other_settings() -> None:
    def make(config: FreezeConfig, policy: str) -> Freezer:
        model = ResNet()
        return Freezer(model, torch.optim.SGD(model.parameters(), 0.1), config, policy=policy, total_steps=100)

    freezer = make(FreezeConfig(window=4), "linear")
    assert (freezer.status()["policy"], freezer.config.policy, freezer.config.window) == ("linear", "linear", 4)
    assert make(FreezeConfig(policy="linear"), "linear").config.policy == "linear"
    with pytest.raises(ConfigError, match="'static', not 'linear'"):
        make(FreezeConfig(policy="static", options={"first": 1}), "linear")


def test_weights_that_are_not_finite_are_named() -> None:
    class Shaky(Scripted):
        def decide(self, context: PolicyContext) -> list[Verdict]:
            return [Verdict("conv", False, float("nan"))]

    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    freezer = Freezer(model, optimizer, settings(), policy=Shaky({}), total_steps=20)
    freezer.prepare(images())
    with torch.no_grad():
        model.layer1[0].conv1.weight[0, 0] = float("inf")
    freezer.step()
    freezer.step()
    with pytest.raises(PlanError, match=r"weights of unit 'layer1\.0\.conv1' are not finite"):
        freezer.step()
    with torch.no_grad():
        model.layer1[0].conv1.weight.zero_()
    freezer.step()
    with pytest.raises(PlanError, match="probability nan"):
        freezer.step()
    freezer.close()


@pytest.mark.parametrize("policy", ["freezeout", "thaw-last"])
def test_rates_of_units_cannot_be_shares_of_nothing(policy: str) -> None:
    def make(rates: tuple[float, float]) -> tuple[Freezer, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        groups = [
            {"params": list(layer.parameters()), "lr": lr} for layer, lr in zip(model, (*rates, 0.1), strict=True)
        ]
        optimizer = torch.optim.SGD(groups[:2], lr=0.1)
        return Freezer(model, optimizer, policy=policy, total_steps=40), optimizer

    with pytest.raises(ConfigError, match="`initial_lr`"):
        make((0.0, 0.0))
    freezer, optimizer = make((0.0, 0.1))  # the first is not meant to move
    freezer.model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    freezer.step()
    optimizer.param_groups[0]["lr"] = 0.05  # it is
    freezer.model(torch.randn(2, 4)).sum().backward()
    with pytest.raises(ConfigError, match="group 0 of the optimizer had the learning rate 0"):
        optimizer.step()
    freezer.close()


def test_warm_up_by_a_scheduler_begins_at_nothing_as_ever() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 5))
    assert optimizer.param_groups[0]["lr"] == 0.0
    freezer = Freezer(model, optimizer, policy="freezeout", total_steps=40)
    before = model[0].weight.detach().clone()
    freezer.model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    freezer.step()
    assert not torch.equal(before, model[0].weight)
    freezer.close()
