"""Random sequences of everything that can happen to a freezer, over random models: the invariants hold after each.

Each sequence is run twice: as drawn, and without its interruptions (save, then resume as a new process does). Both
must end with the same bits.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from freezer.errors import FreezerError
from freezer.events import FreezeEvent
from freezer.freezer import Freezer
from freezer.policies.base import PolicyContext, Verdict
from tests.support.equality import same
from tests.unit.freezer import toys
from tests.unit.freezer.trees import SAMPLES, Tree, trees

EXAMPLES = int(os.environ.get("SMARTFRZ_PROPERTY_EXAMPLES", "60"))
STEPS = 14
Action = tuple[Any, ...]
PARTS = ("version", "step", "plan", "planner", "decisions", "windows", "history", "initial_rate")


class Drawn:
    """Says what was drawn for each stage, by position among the units that run, and keeps a count, as state."""

    name = "drawn"

    def __init__(self, script: dict[int, tuple[int, ...]]) -> None:
        self.script = script
        self.stages = 0

    def decide(self, context: PolicyContext) -> list[Verdict]:
        self.stages += 1
        said = {}
        for number in self.script.get(context.step, ()):
            unit = context.units[number % len(context.units)].name
            frozen = unit in context.frozen
            evidence = 1.0 if unit == context.units[-1].name else None  # to demand that everything freezes is an error
            said[unit] = Verdict(unit, converged=not frozen, probability=evidence, thaw=frozen)
        return list(said.values())

    def state_dict(self) -> dict[str, Any]:
        return {"stages": self.stages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stages = int(state["stages"])


@dataclass(frozen=True)
class Scenario:
    """What is drawn. ``script`` maps a stage's step to positions of units: active ones freeze, frozen ones thaw."""

    tree: Tree
    actions: tuple[Action, ...]
    script: dict[int, tuple[int, ...]] = field(default_factory=dict)
    mode: str = "prefix"
    grain: str = "layer"
    delay: int = 1
    patience: int = 1
    momentum: bool = True


class Run:
    """One training run, in which any step may be followed by the death of its process and a resume."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.data = scenario.tree.data()
        self.score = 0.5
        self.start()

    def start(self) -> None:
        """What a new process does."""
        s = self.scenario
        self.model = s.tree.build()
        parameters = list(self.model.parameters())
        self.optimizer: torch.optim.Optimizer
        if s.momentum:
            self.optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.01)
        else:
            self.optimizer = torch.optim.AdamW(parameters, 0.01, weight_decay=0.1)
        self.freezer = Freezer(
            self.model,
            self.optimizer,
            toys.settings(
                mode=s.mode, unit=s.grain, decision_delay=s.delay, patience=s.patience, thaw_on_worse=0.1, cache="off"
            ),
            total_steps=STEPS,
            policy=Drawn(s.script),
        )
        self.before = self.bits()

    def act(self, action: Action) -> None:
        getattr(self, action[0])(*action[1:])
        self.check()

    # -- actions -----------------------------------------------------------------------------------------------------

    def train(self, accumulate: int = 1) -> None:
        if self.freezer.steps == STEPS:
            return
        step = self.freezer.steps
        self.freezer.model.train()
        for part in range(accumulate):
            torch.manual_seed(1000 * step + part)
            ids = torch.randperm(SAMPLES)[:4]
            with self.freezer.batch(ids):
                out = self.freezer.model(self.data[ids])
            self.check_modes()
            out.sigmoid().mean().backward()  # bounded, so that no rate makes it blow up
        self.check_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.check_still()
        self.before = self.bits()
        event = self.freezer.step()
        self.check_event(event)

    def freeze(self, number: int) -> None:
        self.command("freeze", number)

    def thaw(self, number: int) -> None:
        self.command("thaw", number)

    def pin(self, number: int) -> None:
        self.command("pin", number)

    def unpin(self, number: int) -> None:
        self.command("unpin", number)

    def thaw_all(self) -> None:
        if self.ready():
            self.check_event(self.freezer.thaw())

    def ready(self) -> bool:
        """Whether orders can be given; a resumed process that has seen no batch yet is shown one."""
        if self.freezer.steps and not self.prepared():
            self.freezer.prepare(self.data[:4])
        return self.freezer.steps > 0

    def command(self, what: str, number: int) -> None:
        """A command is obeyed, or refused with a typed error and without any trace."""
        if not self.ready():
            return
        names = [unit.name for unit in self.freezer.units]
        name = names[number % len(names)]
        before, history = self.freezer.plan, list(self.freezer.history)
        try:
            event = getattr(self.freezer, what)([name])
        except FreezerError as error:
            named = repr(name) in str(error)
            assert named, f"{what} {name!r}: {error}"  # noqa: PT017 - a command may also be obeyed
            assert (self.freezer.plan, self.freezer.history) == (before, history)
            return
        frozen = name in self.freezer.plan.frozen
        assert frozen or what != "freeze"
        assert not frozen or what in ("freeze", "unpin")
        self.check_event(event)

    def validate(self, change: float) -> None:
        if not self.ready():
            return
        self.score += change
        with torch.no_grad():
            self.freezer.model.eval()
            self.freezer.model(self.data)
        self.freezer.model.train()
        self.check_event(self.freezer.observe(self.score))

    def rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = min(0.2, group["lr"] * factor)

    def resume(self) -> None:
        """The process dies; another one has only the file."""
        file = io.BytesIO()
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "freezer": self.freezer}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        self.close()
        self.start()
        saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.freezer.load_state_dict(saved["freezer"])
        self.before = self.bits()

    def close(self) -> None:
        self.freezer.close()

    # -- invariants --------------------------------------------------------------------------------------------------

    def bits(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def prepared(self) -> bool:
        return self.freezer._found is not None

    def frozen_names(self) -> set[str]:
        """Parameters and buffers of frozen units, those of modules shared with active units left out."""
        if not self.prepared():
            return set()
        frozen = set(self.freezer.plan.frozen)
        names = {p for unit in self.freezer.units if unit.name in frozen for p in unit.params}
        for path in self.sleeping():
            module = self.model.get_submodule(path)
            names |= {f"{path}.{name}" if path else name for name, _ in module.named_buffers(recurse=False)}
        return names

    def sleeping(self) -> list[str]:
        awake = {p for u in self.freezer.units if u.name not in self.freezer.plan.frozen for p in u.modules}
        asleep = {p for u in self.freezer.units if u.name in self.freezer.plan.frozen for p in u.modules}
        return sorted(asleep - awake)

    def check(self) -> None:
        """What must hold between any two actions."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in self.model.parameters()}
        if not self.prepared():
            return
        frozen = set(self.freezer.plan.frozen)
        parameters = dict(self.model.named_parameters())
        for unit in self.freezer.units:
            for name in unit.params:
                assert parameters[name].requires_grad == (unit.name not in frozen), name
                assert unit.name not in frozen or parameters[name].grad is None, name
        state = self.optimizer.state_dict()
        assert sorted(state["param_groups"][0]["params"]) == list(range(len(parameters)))
        self.optimizer.load_state_dict(state)
        self.freezer.status()

    def check_modes(self) -> None:
        frozen = set(self.freezer.plan.frozen)
        for path in self.sleeping():
            never_called = path.endswith(("out_proj", "parametrizations"))  # read, or a dictionary
            assert never_called or not self.model.get_submodule(path).training, f"{path} is awake"
        for unit in self.freezer.units:
            if unit.name not in frozen:
                assert all(self.model.get_submodule(path).training for path in unit.modules), f"{unit.name} sleeps"

    def check_gradients(self) -> None:
        frozen = set(self.freezer.plan.frozen)
        parameters = dict(self.model.named_parameters())
        for unit in self.freezer.units:
            for name in unit.params:
                has = parameters[name].grad is not None
                assert has == (unit.used and unit.name not in frozen), f"gradient of {name}: {has}"

    def check_still(self) -> None:
        now = self.model.state_dict()
        for name in self.frozen_names():
            assert torch.equal(self.before[name], now[name]), f"{name} moved while frozen"

    def check_event(self, event: FreezeEvent | None) -> None:
        """Nothing but the set of frozen units changes in an event."""
        now = self.model.state_dict()
        for name, value in self.before.items():
            assert torch.equal(value, now[name]), f"an event changed {name}"
        if event is not None:
            assert self.freezer.history[-1] == event.to_dict()
            assert event.plan_hash == self.freezer.plan.digest
            assert set(event.frozen) <= set(self.freezer.plan.frozen)
            assert not set(event.thawed) & set(self.freezer.plan.frozen)
        assert not self.prepared() or set(self.freezer.plan.frozen) < {u.name for u in self.freezer.units}


def end_of(scenario: Scenario, actions: Sequence[Action]) -> dict[str, Any]:
    """Everything that must be the same, whoever was interrupted."""
    run = Run(scenario)
    try:
        for action in actions:
            run.act(action)
        while run.freezer.steps < STEPS:
            run.act(("train",))
        state = run.freezer.state_dict()
        return {
            "weights": run.bits(),
            "optimizer": run.optimizer.state_dict(),
            **{part: state[part] for part in PARTS},
            "flops": run.freezer.costs.flops,
        }
    finally:
        run.close()


NUMBER = st.integers(0, 11)
ACTIONS = st.one_of(
    st.just(("train",)),
    st.just(("train",)),
    st.just(("resume",)),
    st.tuples(st.sampled_from(["freeze", "thaw", "pin", "unpin"]), NUMBER),
    st.just(("thaw_all",)),
    st.tuples(st.just("validate"), st.sampled_from([0.05, -0.2])),
    st.just(("train", 2)),
    st.tuples(st.just("rate"), st.sampled_from([0.5, 0.05, 4.0])),
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return Scenario(
        tree=draw(trees()),
        actions=tuple(draw(st.lists(ACTIONS, min_size=4, max_size=18))),
        script=draw(
            st.dictionaries(st.sampled_from(range(2, STEPS, 2)), st.tuples(NUMBER) | st.tuples(NUMBER, NUMBER))
        ),
        mode=draw(st.sampled_from(["prefix", "any"])),
        grain=draw(st.sampled_from(["layer", "block"])),
        delay=draw(st.integers(0, 3)),
        patience=draw(st.integers(1, 2)),
        momentum=draw(st.booleans()),
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(scenarios())
def test_whatever_happens_in_whatever_order_to_whatever_model(scenario: Scenario) -> None:
    torch.set_num_threads(1)
    disturbed = end_of(scenario, scenario.actions)
    straight = end_of(scenario, [action for action in scenario.actions if action[0] != "resume"])
    for part, value in straight.items():
        assert same(value, disturbed[part]), f"{part} differs after a resume"


def test_resumed_before_the_first_step() -> None:
    def static() -> Freezer:
        model = Tree().build()
        config = toys.settings(policy="static", options={"first": 1})
        return Freezer(model, torch.optim.SGD(model.parameters(), 0.1), config, total_steps=STEPS)

    first, second = static(), static()
    second.load_state_dict(first.state_dict())
    for freezer in (first, second):
        freezer.model(Tree().data()).sum().backward()
        freezer.optimizer.step()
        freezer.step()
        freezer.close()
    assert second.plan == first.plan
    assert second.windows.read("front") == first.windows.read("front")
