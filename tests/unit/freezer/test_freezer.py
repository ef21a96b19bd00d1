"""The freezer in one process, with a scripted policy."""

from __future__ import annotations

import copy
import json
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.config import FreezeConfig
from freezer.errors import ConfigError, PlanError, UnitError
from freezer.events import FreezeEvent
from freezer.freezer import Freezer
from freezer.policies.base import PolicyContext, Verdict
from freezer.windows import MemoryWindows
from tests.unit.freezer.toys import Auxiliary, ResNet, Scripted, Transformer, images, settings, tokens


def build(model: nn.Module, policy: Any, steps: int = 20, **options: Any) -> tuple[Freezer, torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    config = options.pop("config", None) or settings(**options.pop("changes", {}))
    return Freezer(model, optimizer, config, total_steps=steps, policy=policy, **options), optimizer


def train(freezer: Freezer, optimizer: torch.optim.Optimizer, steps: range, kind: str = "image") -> list[FreezeEvent]:
    events = []
    for step in steps:
        torch.manual_seed(100 + step)
        batch = images() if kind == "image" else tokens()
        freezer.model.train()
        freezer.model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        events.append(freezer.step())
    return [event for event in events if event is not None]


def test_a_verdict_takes_effect_at_the_fixed_step_after_its_stage() -> None:
    seen: list[FreezeEvent] = []
    freezer, optimizer = build(ResNet(), Scripted({4: ["conv"]}), changes={"decision_delay": 3}, on_event=seen.append)
    events = train(freezer, optimizer, range(10))
    assert [(e.step, e.seq, e.frozen, e.thawed) for e in events] == [(7, 1, ("conv",), ())]
    assert seen == events
    assert events[0].plan_hash == freezer.plan.digest
    assert events[0].probabilities == {"conv": 0.9}
    freezer.close()


@pytest.mark.parametrize("delay", [0, 1, 5])
def test_any_delay_even_longer_than_the_stages_are_apart(delay: int) -> None:
    script = {4: ["conv"], 6: ["layer1.0.conv1"]}
    freezer, optimizer = build(ResNet(), Scripted(script), changes={"decision_delay": delay})
    events = train(freezer, optimizer, range(14))
    assert [event.step for event in events] == [4 + delay, 6 + delay]
    freezer.close()


def test_a_slow_policy_changes_nothing_but_the_time() -> None:
    gate = threading.Event()

    class Slow(Scripted):
        def decide(self, context: PolicyContext) -> list[Verdict]:
            assert threading.current_thread() is not threading.main_thread()
            assert gate.wait(30)
            return super().decide(context)

    freezer, optimizer = build(ResNet(), Slow({2: ["conv"]}), changes={"decision_delay": 2})
    train(freezer, optimizer, range(3))  # the stage is under way and training goes on
    gate.set()
    assert [event.step for event in train(freezer, optimizer, range(3, 5))] == [4]
    freezer.close()


def test_windows_begin_with_the_untrained_weights_and_end_when_frozen() -> None:
    model, windows = ResNet(), MemoryWindows(100)
    initial = set(model.conv.weight.flatten().tolist())
    freezer, optimizer = build(model, Scripted({4: ["conv"]}), windows=windows, changes={"snapshot_every": 2})
    train(freezer, optimizer, range(10))
    freezer.close()
    assert [snapshot.step for snapshot in windows.read("conv")] == [0, 2, 4], "readable, but no longer written"
    assert [snapshot.step for snapshot in windows.read("fc")] == [0, 2, 4, 6, 8, 10]
    first = torch.frombuffer(bytearray(windows.read("conv")[0].values), dtype=torch.float32)
    assert set(first.tolist()) <= initial


def test_the_policy_sees_what_it_needs() -> None:
    policy = Scripted({2: ["conv"]})
    freezer, optimizer = build(ResNet(), policy, steps=12)
    train(freezer, optimizer, range(4))
    optimizer.param_groups[0]["lr"] = 5e-3
    train(freezer, optimizer, range(4, 8))
    assert policy.asked == [2, 4, 6, 8][: len(policy.asked)]
    context = policy.contexts[2]
    assert (context.step, context.total_steps, context.frozen) == (6, 12, {"conv"})
    assert (context.learning_rate, context.initial_learning_rate) == (5e-3, 1e-2)
    assert [snapshot.step for snapshot in context.windows["fc"]] == [4, 5, 6]
    freezer.close()


@pytest.mark.parametrize("when", ["before prepare", "after prepare"])
def test_resume_is_bit_identical(when: str) -> None:
    script = {4: ["conv"], 14: ["layer1.0.conv1"], 20: ["layer1.0.conv2", "layer1.1.conv1"]}
    torch.manual_seed(0)
    straight = ResNet()
    whole, optimizer = build(straight, Scripted(script), 30, changes={"decision_delay": 3})
    train(whole, optimizer, range(30))

    torch.manual_seed(0)
    first = ResNet()
    one, optimizer = build(first, Scripted(script), 30, changes={"decision_delay": 3})
    train(one, optimizer, range(15))  # the stage of step 14 has not taken effect yet
    saved = {"model": first.state_dict(), "optimizer": optimizer.state_dict(), "freezer": one.state_dict()}
    assert saved["freezer"]["decisions"]["pending"][0]["stage"] == 14

    second = ResNet()
    two, optimizer = build(second, Scripted(script), 30, changes={"decision_delay": 3})
    if when == "after prepare":
        two.prepare(images())
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    two.load_state_dict(saved["freezer"])
    train(two, optimizer, range(15, 30))

    for name, value in straight.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert [entry["step"] for entry in whole.history] == [7, 17, 23]
    assert two.history == whole.history
    assert two.plan == whole.plan
    ours, theirs = two.state_dict(), whole.state_dict()
    for part in ("step", "plan", "planner", "decisions", "windows", "history"):
        assert ours[part] == theirs[part], part
    assert two.costs.flops == whole.costs.flops
    for freezer in (whole, one, two):
        freezer.close()


def test_a_resume_before_between_and_after_every_stage_and_event_is_bit_identical() -> None:
    script = {4: ["conv"], 8: ["layer1.0.conv1"], 10: ["layer1.0.conv2"]}
    events, last = [7, 11, 13], 15
    torch.manual_seed(0)
    model = ResNet()
    whole, optimizer = build(model, Scripted(script), last, changes={"decision_delay": 3})
    saved = []
    for step in range(last):
        train(whole, optimizer, range(step, step + 1))
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "freezer": whole.state_dict()}
        saved.append(copy.deepcopy(parts))
    assert [entry["step"] for entry in whole.history] == events
    for done in range(3, last):
        state = copy.deepcopy(saved[done - 1])
        again = ResNet()
        freezer, optimizer = build(again, Scripted(script), last, changes={"decision_delay": 3})
        again.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        freezer.load_state_dict(state["freezer"])
        train(freezer, optimizer, range(done, last))
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), f"{name}, resumed after step {done}"
        assert freezer.history == whole.history
        freezer.close()
    whole.close()


def test_state_of_another_policy_is_refused() -> None:
    freezer, _ = build(ResNet(), Scripted({}))
    state = freezer.state_dict()
    state["decisions"]["name"] = "linear"
    with pytest.raises(PlanError, match="'linear', not 'scripted'"):
        freezer.load_state_dict(state)


def test_none_has_no_stage_and_leaves_no_thread() -> None:
    before = threading.active_count()
    freezer, optimizer = build(ResNet(), None, config=settings(policy="none"))
    assert train(freezer, optimizer, range(8)) == []
    freezer.close()
    assert threading.active_count() == before
    assert freezer.status()["next_stage_at_step"] is None
    assert freezer.report()["flops"]["this_run"] == freezer.report()["flops"]["full_training"] > 0


def test_static_is_frozen_from_the_first_step_on() -> None:
    model = ResNet()
    before = model.conv.weight.detach().clone()
    config = settings(policy="static", patience=2, options={"units": ["conv"]})
    freezer, optimizer = build(model, None, config=config)
    train(freezer, optimizer, range(4))
    assert torch.equal(model.conv.weight, before)
    assert [(entry["step"], entry["frozen"]) for entry in freezer.history] == [(0, ["conv"])]
    freezer.close()


def test_a_share_of_static_flops_is_frozen_from_its_moment_on() -> None:
    config = settings(policy="static", decide_every=2, decision_delay=0, options={"share": 0.5, "start": 0.45})
    freezer, optimizer = build(ResNet(), None, config=config)
    train(freezer, optimizer, range(12))
    told = [(entry["step"], entry["frozen"]) for entry in freezer.history]
    # the first stage at or after step 9 of 20; the next block would bring 155,232 to 268,128 of 530,464 FLOPs
    assert told == [(10, ["conv", "layer1.0.conv1", "layer1.0.conv2"])]
    freezer.close()


@pytest.mark.parametrize("options", [{"units": ["conv", "fc"]}, {"first": 11}, {"share": 0.5}])
def test_static_units_that_cannot_be_frozen_later_are_an_error_before_the_first_step(options: dict[str, Any]) -> None:
    config = settings(policy="static", options={**options, "start": 0.5}, pin=("conv",))
    freezer, _ = build(ResNet(), None, config=config)
    with pytest.raises(ConfigError) as caught:
        freezer.prepare(images())
    assert caught.value.pointer.startswith("/options/")
    freezer.close()


@pytest.mark.parametrize("units", [["layer1.0.conv1"], ["conv", "fc"]])
def test_static_units_that_cannot_be_frozen_are_an_error_not_a_no_op(units: list[str]) -> None:
    freezer, _ = build(ResNet(), None, config=settings(policy="static", options={"units": units}))
    with pytest.raises(ConfigError, match=f"'{units[-1]}' is named to be frozen but cannot be") as caught:
        freezer.prepare(images())
    assert caught.value.pointer == f"/options/units/{len(units) - 1}"
    freezer.close()


@pytest.mark.parametrize(
    "changes", [{"options": {"first": 11}}, {"pin": ("layer1.0.conv1",)}, {"max_frozen_ratio": 0.1}]
)
def test_a_count_of_static_units_that_cannot_be_frozen_is_an_error_too(changes: dict[str, Any]) -> None:
    freezer, _ = build(ResNet(), None, config=settings(**{"policy": "static", "options": {"first": 2}} | changes))
    with pytest.raises(ConfigError) as caught:
        freezer.prepare(images())
    assert caught.value.pointer == "/options/first"
    freezer.close()


def test_the_three_lines_with_the_policy_named() -> None:
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, policy="none", total_steps=10)
    freezer.model(images()).sum().backward()
    optimizer.step()
    assert freezer.step() is None
    assert freezer.steps == 1


class TestProxy:
    def test_names_and_state_are_the_models_own(self) -> None:
        model = ResNet()
        freezer, optimizer = build(model, Scripted({2: ["conv"]}))
        train(freezer, optimizer, range(4))
        proxy = freezer.model
        assert list(proxy.state_dict()) == list(model.state_dict())
        assert [n for n, _ in proxy.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert proxy.layer1 is model.layer1
        proxy.eval()
        assert not any(module.training for module in model.modules())
        freezer.close()

    def test_evaluation_prepares_nothing_and_counts_nothing(self) -> None:
        freezer, _ = build(ResNet(), Scripted({}))
        with torch.no_grad():
            freezer.model(images())
        with pytest.raises(UnitError, match="no training pass yet"):
            freezer.step()

    def test_a_users_own_eval_choice_survives_an_event(self) -> None:
        model = ResNet()
        freezer, optimizer = build(model, Scripted({2: ["conv"]}))
        train(freezer, optimizer, range(2))
        model.layer2.eval()
        freezer.model(images()).sum().backward()
        optimizer.step()
        assert freezer.step() is not None
        assert not any(module.training for module in model.layer2.modules())
        freezer.close()


class TestCosts:
    def test_accumulated_and_smaller_batches_count_as_what_they_are(self) -> None:
        freezer, optimizer = build(ResNet(), Scripted({}))
        freezer.prepare(images(4))
        for count in (4, 2):
            freezer.model(images(count)).sum().backward()
        optimizer.step()
        freezer.step()
        assert freezer.costs.flops == pytest.approx(1.5 * freezer._prepared.full.total)

    def test_report_and_status_are_json_and_name_states(self) -> None:
        freezer, optimizer = build(
            ResNet(),
            Scripted({4: ["conv"], 8: ["layer1.0.conv1"]}),
            changes={"patience": 1, "pin": ("layer1.0.conv2",)},
        )
        train(freezer, optimizer, range(6))
        status = json.loads(json.dumps(freezer.status()))
        states = {row["name"]: row["state"] for row in status["units"]}
        assert states["conv"] == "frozen"
        assert states["layer1.0.conv2"] == states["fc"] == "pinned"
        assert states["layer1.0.conv1"] == "active"
        conv = status["units"][0]
        assert (conv["frozen_at_step"], conv["probability"], conv["window_filled"]) == (5, 0.9, 3)
        assert (status["plan_seq"], status["plan_hash"]) == (1, freezer.plan.digest)
        assert status["next_stage_at_step"] == 8
        report = json.loads(json.dumps(freezer.report()))
        assert report["flops"]["this_run"] < report["flops"]["full_training"]
        assert report["savings"]["measured"]["overhead_seconds"] > 0
        assert report["frozen_units"] == ["conv"]
        freezer.close()

    def test_candidates_are_units_on_their_way(self) -> None:
        freezer, optimizer = build(ResNet(), Scripted({4: ["conv"]}), changes={"patience": 2, "decision_delay": 0})
        train(freezer, optimizer, range(4))
        assert freezer.status()["units"][0]["state"] == "candidate"
        freezer.close()


class TestRefusals:
    def test_compiled_models(self) -> None:
        model = ResNet()
        model.compile(backend="eager")
        with pytest.raises(ConfigError, match="before compiling"):
            build(model, Scripted({}))
        with pytest.raises(ConfigError, match="before compiling"):
            build(torch.compile(ResNet(), backend="eager"), Scripted({}))  # type: ignore[arg-type]

    def test_wrapped_models(self) -> None:
        with pytest.raises(ConfigError, match="bare model, not DataParallel"):
            build(nn.DataParallel(ResNet()), Scripted({}))

    @pytest.mark.parametrize(
        ("model", "says"),
        [
            (nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), r"0\.weight has no shape yet: run a batch"),
            (nn.ReLU(), "the model has no parameter"),
        ],
    )
    def test_models_without_weights(self, model: nn.Module, says: str) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        with pytest.raises(ConfigError, match=says):
            Freezer(model, optimizer, total_steps=20, policy="linear")

    def test_sharded_models(self) -> None:
        class FSDPModule:
            """Stands for the class that ``fully_shard`` mixes in."""

        class Sharded(ResNet, FSDPModule):
            pass

        with pytest.raises(ConfigError, match="FSDP is not supported"):
            build(Sharded(), Scripted({}))

    def test_an_optimizer_that_moves_all_parameters_as_one(self) -> None:
        model = ResNet()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
        with pytest.raises(ConfigError, match="LBFGS moves all parameters as one, frozen ones too"):
            Freezer(model, optimizer, total_steps=20, policy="linear")
        freezer, batch = Freezer(model, optimizer, total_steps=20, policy="none"), images()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = freezer.model(batch).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        freezer.step()
        with pytest.raises(ConfigError, match="use another optimizer"):
            freezer.freeze(["conv"])
        assert freezer.plan.frozen == ()
        assert model.conv.weight.requires_grad
        optimizer.step(closure)
        freezer.step()
        freezer.close()

    def test_a_pin_that_matches_nothing(self) -> None:
        freezer, _ = build(ResNet(), Scripted({}), changes={"pin": ("encoder.*",)})
        with pytest.raises(ConfigError, match="matches no unit"):
            freezer.prepare(images())

    def test_a_window_longer_than_the_run(self) -> None:
        with pytest.raises(ConfigError, match="use a window of at most"):
            build(ResNet(), Scripted({}), steps=10, config=FreezeConfig(window=30))

    @pytest.mark.parametrize("probability", [float("nan"), 2.0])
    def test_a_probability_that_is_none_stops_the_run_before_anything_is_frozen(self, probability: float) -> None:
        model = ResNet()
        freezer, optimizer = build(model, Scripted({2: ["conv"]}, probability))
        with pytest.raises(PlanError, match="'conv'"):
            train(freezer, optimizer, range(4))
        assert model.conv.weight.requires_grad
        freezer.close()

    def test_a_policy_that_raises_is_named_with_its_cause(self) -> None:
        class Broken(Scripted):
            def decide(self, context: PolicyContext) -> list[Verdict]:
                raise ZeroDivisionError("oops")

        freezer, optimizer = build(ResNet(), Broken({}))
        with pytest.raises(PlanError, match=r"'scripted' failed at step 2.*oops") as caught:
            train(freezer, optimizer, range(4))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        freezer.close()


def test_a_tied_head_freezes_with_the_embedding_or_not_at_all() -> None:
    model = Transformer(tied=True)
    freezer, optimizer = build(model, Scripted({2: ["embed"]}))
    train(freezer, optimizer, range(3), "text")
    assert not model.head.weight.requires_grad
    before = model.head.weight.detach().clone()
    train(freezer, optimizer, range(3, 6), "text")
    assert torch.equal(model.head.weight, before)
    freezer.close()


@pytest.mark.parametrize("keep", [True, False])
def test_layers_that_run_in_training_alone_or_later_are_trained_but_never_frozen(keep: bool) -> None:
    """``keep``: gradients are still there in ``freezer.step()``, for a loop that zeroes them before its pass."""
    model = Auxiliary()
    freezer, optimizer = build(model, Scripted({2: ["first"]}))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(6):
        optimizer.zero_grad()
        freezer.model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        if not keep:
            optimizer.zero_grad()
        freezer.step()
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert freezer.plan.frozen == ("first",)
    with pytest.raises(PlanError, match="'aux' cannot be frozen"):
        freezer.freeze(["aux"])
    freezer.close()


def test_one_head_for_each_task_and_a_task_in_each_batch() -> None:
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

        def forward(self, x: Tensor, task: int) -> Tensor:
            return self.heads[task](self.trunk(x))

    model = Tasks()
    freezer, optimizer = build(model, "none")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(6):
        optimizer.zero_grad()
        freezer.model(torch.randn(5, 4), step % 2).square().mean().backward()
        optimizer.step()
        freezer.step()
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    freezer.close()


def test_finding_where_to_cut_is_booked_as_overhead() -> None:
    torch.manual_seed(0)
    model, data = ResNet(), images(8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    config = settings(policy="static", options={"first": 1}, cache="auto")
    freezer = Freezer(model, optimizer, config, total_steps=40, samples=8)
    for _ in range(3):
        with freezer.batch(range(8)):
            freezer.model(data).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
    report = freezer.report()
    freezer.close()
    assert report["cache"]["hits"] > 0, report["cache"]
    taken = sum(report["cache"]["seconds"][kind] for kind in ("search", "verify", "trial"))
    booked = report["savings"]["measured"]["overhead_seconds_by_kind"]["cache"]
    assert booked == pytest.approx(taken, rel=1e-3)
