"""The planner is pure: every rule is a table."""

from __future__ import annotations

import json
import math

import pytest

from freezer.config import FreezeConfig
from freezer.errors import ConfigError, PlanError
from freezer.plan import FreezePlan
from freezer.planner import PlannerState, check, make_plan, resolve_pins
from freezer.policies.base import Verdict
from freezer.units import Site, Survey, Unit

UNITS = [
    Unit(
        name=n,
        index=i,
        block=n[0],
        params=(n,),
        modules=(n,),
        flops=100,
        activation_bytes=1,
        parameters=1,
        sites=(Site(i, i, 100, 100),),
    )
    for i, n in enumerate(["a1", "a2", "b1", "b2", "c"])
] + [
    Unit(name="z", index=5, block="z", params=("z",), modules=(), flops=0, activation_bytes=0, parameters=1, used=False)
]
SURVEY = Survey(UNITS, ())


def yes(*names: str, probability: float | None = 0.9) -> list[Verdict]:
    return [Verdict(name, True, probability) for name in names]


def once(verdicts: list[Verdict], before: FreezePlan | None = None, pinned: tuple[str, ...] = (), **changes: object):  # type: ignore[no-untyped-def]
    config = FreezeConfig(**{"patience": 1, **changes})  # type: ignore[arg-type]
    return make_plan(
        before or FreezePlan(), PlannerState(), verdicts, SURVEY, config, step=7, total_steps=1000, pinned=pinned
    ).plan


@pytest.mark.parametrize(
    ("mode", "converged", "frozen"),
    [
        ("prefix", ["a1", "a2"], ("a1", "a2")),
        ("prefix", ["a1", "b1"], ("a1",)),
        ("prefix", ["a2", "b1"], ()),
        ("any", ["b1", "a2"], ("a2", "b1")),
        ("any", ["a1", "a2", "b1", "b2", "c"], ("a1", "a2", "b1", "b2")),
        ("prefix", ["a1", "a2", "b1", "b2", "c"], ("a1", "a2", "b1", "b2")),
        ("any", ["z"], ()),
    ],
)
def test_mode_and_head(mode: str, converged: list[str], frozen: tuple[str, ...]) -> None:
    assert once(yes(*converged), mode=mode).frozen == frozen


def test_pins_hold_and_stop_the_prefix() -> None:
    assert once(yes("a1", "a2", "b1"), pinned=("a2",), mode="any").frozen == ("a1", "b1")
    assert once(yes("a1", "a2", "b1"), pinned=("a2",), mode="prefix").frozen == ("a1",)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.4, 2), (0.59, 2), (0.6, 3), (1.0, 4)])
def test_ratio_bounds_the_number_of_frozen_units(ratio: float, count: int) -> None:
    assert len(once(yes("a1", "a2", "b1", "b2"), max_frozen_ratio=ratio).frozen) == count


def test_patience_wants_verdicts_in_a_row() -> None:
    config, plan, state = FreezeConfig(patience=2), FreezePlan(), PlannerState()
    said = [yes("a1"), [], yes("a1"), yes("a1", "a2"), yes("a2")]
    frozen = []
    for step, verdicts in enumerate(said):
        state = PlannerState.from_dict(json.loads(json.dumps(state.to_dict())))
        planned = make_plan(plan, state, verdicts, SURVEY, config, step=step, total_steps=1000)
        plan, state = planned.plan, planned.state
        frozen.append(plan.frozen)
    assert frozen == [(), (), (), ("a1",), ("a1", "a2")]


def test_calendar_policies_need_no_patience() -> None:
    assert once(yes("a1", probability=None), patience=5).frozen == ("a1",)


def test_frozen_stays_frozen_without_further_verdicts() -> None:
    before = FreezePlan(3, 5, ("b1",))
    assert once([Verdict("b1", False, 0.1)], before, mode="any") == FreezePlan(3, 5, ("b1",), {"b1": 0.1})


def test_sequence_counts_changes_and_the_step_is_the_changes() -> None:
    same, new = once([], FreezePlan(3, 5, ("a1",))), once(yes("a2"), FreezePlan(3, 5, ("a1",)))
    assert (same.seq, same.step) == (3, 5)
    assert (new.seq, new.step) == (4, 7)
    assert new.newly_frozen(same) == ("a2",)
    assert new.thawed(same) == ()
    assert same.thawed(new) == ("a2",)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_a_probability_that_is_none_is_refused_by_name(value: float) -> None:
    with pytest.raises(PlanError, match="'a2'"):
        once([Verdict("a2", True, value)])


def test_unknown_and_repeated_units_are_refused_by_name() -> None:
    with pytest.raises(PlanError, match="'nope'"):
        once(yes("nope"))
    with pytest.raises(PlanError, match="twice of 'a1'"):
        once(yes("a1", "a1"))


@pytest.mark.parametrize(
    ("frozen", "says"),
    [
        (("a1", "a2", "b1", "b2", "c"), "'c'.*nothing would be left"),
        (("nope",), "'nope'"),
        (("z",), "'z'.*never runs"),
        (("a1", "a1"), "twice"),
        (("b1",), "'b1'.*pinned"),
    ],
)
def test_plans_that_must_not_be_applied(frozen: tuple[str, ...], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        check(FreezePlan(1, 1, frozen), UNITS, pinned=("b1",) if "pinned" in says else ())


def test_pins_by_name_block_and_pattern() -> None:
    assert resolve_pins(("a1", "b"), UNITS) == {"a1", "b1", "b2"}
    assert resolve_pins(("a*",), UNITS) == {"a1", "a2"}


def test_a_pin_that_matches_nothing_is_an_error_with_its_pointer() -> None:
    with pytest.raises(ConfigError, match=r"'encoder'.*a1, a2") as caught:
        resolve_pins(("a1", "encoder"), UNITS)
    assert caught.value.pointer == "/pin/1"


def test_digest_tells_sequence_step_and_names_apart() -> None:
    plans = [FreezePlan(1, 2, ("a",)), FreezePlan(2, 2, ("a",)), FreezePlan(1, 3, ("a",)), FreezePlan(1, 2, ("b",))]
    assert len({plan.digest for plan in plans}) == 4
    assert FreezePlan(1, 2, ("a",), {"a": 0.5}).digest == plans[0].digest
    assert FreezePlan.from_dict(json.loads(json.dumps(plans[0].to_dict()))) == plans[0]


def test_plans_cannot_be_changed() -> None:
    plan = FreezePlan(1, 2, ("a",), {"a": 0.5})
    with pytest.raises(TypeError):
        plan.probabilities["a"] = 0.6  # type: ignore[index]
    with pytest.raises(AttributeError):
        plan.seq = 2  # type: ignore[misc]
