"""The planner is pure: every rule is a table."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezer.config import FreezeConfig
from freezer.cost import step_flops
from freezer.errors import ConfigError, PlanError
from freezer.plan import FreezePlan
from freezer.planner import PlannerState, check, freeze, make_plan, resolve_pins, thaw
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
    config = FreezeConfig(**{"patience": 1, "min_gain": 0.0, **changes})  # type: ignore[arg-type]
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


def test_a_policy_that_demands_to_freeze_everything_is_refused_by_name() -> None:
    every = ("a1", "a2", "b1", "b2", "c")
    with pytest.raises(PlanError, match="every unit, 'c' with them"):
        once(yes(*every, probability=None))
    with pytest.raises(PlanError, match="every unit, 'c' with them"):  # the rest is frozen already
        once(yes("c", probability=None), FreezePlan(1, 3, every[:-1]))
    assert once(yes(*every[1:], probability=None), mode="any").frozen == every[1:-1]
    assert once(yes(*every, probability=None), pinned=("a2",), mode="any").frozen == ("a1", "b1", "b2")
    planned = make_plan(
        FreezePlan(),
        PlannerState(),
        yes(*every, probability=None),
        SURVEY,
        FreezeConfig(),
        step=7,
        total_steps=9,
        calendar=True,
    )
    assert planned.plan.frozen == every[:-1], "a calendar's last turn is the head's: it is passed over"


def test_pins_hold_and_stop_the_prefix() -> None:
    assert once(yes("a1", "a2", "b1"), pinned=("a2",), mode="any").frozen == ("a1", "b1")
    assert once(yes("a1", "a2", "b1"), pinned=("a2",), mode="prefix").frozen == ("a1",)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.4, 2), (0.59, 2), (0.6, 3), (1.0, 4)])
def test_ratio_bounds_the_number_of_frozen_units(ratio: float, count: int) -> None:
    assert len(once(yes("a1", "a2", "b1", "b2"), max_frozen_ratio=ratio).frozen) == count


def test_patience_wants_verdicts_in_a_row() -> None:
    config, plan, state = FreezeConfig(patience=2, min_gain=0.0), FreezePlan(), PlannerState()
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


# -- thaw ------------------------------------------------------------------------------------------------------------

A, B = FreezePlan(3, 5, ("a1", "a2", "b1")), FreezePlan()


def thawing(*names: str) -> list[Verdict]:
    return [Verdict(name, False, 0.1, thaw=True) for name in names]


@pytest.mark.parametrize(("mode", "left"), [("prefix", ("a1",)), ("any", ("a1", "b1"))])
def test_a_verdict_thaws_and_in_mode_prefix_everything_behind(mode: str, left: tuple[str, ...]) -> None:
    assert once(thawing("a2"), A, mode=mode).frozen == left
    assert once([*thawing("a2"), *yes("b2")], A, mode=mode).frozen == ((*left, "b2") if mode == "any" else left)


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (thawing("b2"), "'b2'.*not frozen"),
        (thawing("nope"), "'nope'"),
        ([Verdict("a1", True, 0.9, thaw=True)], "both freezes and thaws 'a1'"),
    ],
)
def test_thaws_that_cannot_be(verdicts: list[Verdict], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        once(verdicts, A)


def test_a_thawed_unit_starts_its_streak_anew_and_old_verdicts_on_it_do_not_count() -> None:
    config = FreezeConfig(patience=2, decision_delay=1, mode="any", min_gain=0.0)
    plan, state = thaw(A, PlannerState({"b2": 1}), ["a2"], UNITS, config, step=20)
    assert (plan.frozen, plan.seq, plan.step) == (("a1", "b1"), 4, 20)
    assert state == PlannerState({"b2": 1}, {"a2": 20})
    frozen = []
    for step in (21, 23, 25):  # the stage of step 21's verdict began at 20, when a2 was frozen still
        state = PlannerState.from_dict(json.loads(json.dumps(state.to_dict())))
        planned = make_plan(plan, state, yes("a2"), SURVEY, config, step=step, total_steps=1000)
        plan, state = planned.plan, planned.state
        frozen.append("a2" in plan.frozen)
    assert frozen == [False, False, True]
    assert state == PlannerState()


def test_a_policys_thaw_that_a_trigger_overtook_is_no_error() -> None:
    plan, state = thaw(A, PlannerState(), None, UNITS, FreezeConfig(), step=20)
    planned = make_plan(plan, state, thawing("a1"), SURVEY, FreezeConfig(), step=21, total_steps=1000)
    assert planned.plan == plan.__class__(4, 20, (), plan.probabilities)
    with pytest.raises(PlanError, match="not frozen"):
        make_plan(plan, state, thawing("a1"), SURVEY, FreezeConfig(), step=30, total_steps=1000)


def test_thaw_by_command() -> None:
    config = FreezeConfig()
    assert thaw(A, PlannerState({"b2": 1}), None, UNITS, config, step=9)[1].streaks == {}
    assert thaw(A, PlannerState(), ["a*"], UNITS, config, step=9)[0].frozen == ()
    assert thaw(A, PlannerState(), ["b"], UNITS, config, step=9)[0].frozen == ("a1", "a2")
    assert thaw(B, PlannerState(), None, UNITS, config, step=9) == (B, PlannerState())
    for names, says in ((["b2"], "'b2'.*not frozen. Frozen: a1, a2, b1"), (["nope"], "'nope'.*units: a1")):
        with pytest.raises(PlanError, match=says):
            thaw(A, PlannerState(), names, UNITS, config, step=9)


def test_freeze_by_command() -> None:
    def command(*names: str, before: FreezePlan = B, **changes: object) -> FreezePlan:
        state = PlannerState({"b1": 1, "b2": 1}, {"b1": 2})
        config = FreezeConfig(**changes)  # type: ignore[arg-type]
        plan, after = freeze(before, state, names, UNITS, config, step=9, pinned=("a2",))
        assert not set(plan.frozen) & {*after.streaks, *after.thawed}
        return plan

    assert command("b1").frozen == ("b1",)
    assert command("b", before=FreezePlan(1, 2, ("a1",))) == FreezePlan(2, 9, ("a1", "b1", "b2"))
    assert command("a1", before=FreezePlan(1, 2, ("a1",))) == FreezePlan(1, 2, ("a1",))
    for names, says in {
        ("a*",): "'a2'.*Unpin",
        ("c",): "'c'.*last unit",
        ("z",): "'z'.*never ran",
        ("nope",): "'nope'.*units: a1",
        ("a1", "b1", "b2"): "'b2'.*max_frozen_ratio 0.4 allows 2",
    }.items():
        with pytest.raises(PlanError, match=says):
            command(*names, max_frozen_ratio=0.4)


# -- what it is worth ------------------------------------------------------------------------------------------------


def test_a_change_that_does_not_pay_waits_as_a_candidate_and_says_why() -> None:
    config = FreezeConfig(patience=1, min_gain=0.0)
    full = step_flops(SURVEY).total
    gain = full - step_flops(SURVEY, ["a1"]).total
    steps = full // gain + 1
    kept, state = [], PlannerState()
    for remaining in (steps - 1, steps):
        planned = make_plan(B, state, yes("a1"), SURVEY, config, step=100, total_steps=100 + remaining)
        kept.append((planned.plan.frozen, dict(planned.state.streaks), planned.refused is None))
        state = planned.state
    assert kept == [((), {"a1": 1}, False), (("a1",), {}, True)]
    refused = make_plan(B, state, yes("a1"), SURVEY, config, step=100, total_steps=101).refused
    assert refused is not None
    assert refused.startswith("a1: it would save")


def test_units_that_do_not_pay_alone_may_pay_together() -> None:
    config = FreezeConfig(patience=1, min_gain=0.3, mode="any")
    assert make_plan(B, PlannerState(), yes("b1"), SURVEY, config, step=1, total_steps=999).plan.frozen == ()
    both = make_plan(B, PlannerState(), yes("a1", "a2", "b1"), SURVEY, config, step=1, total_steps=999)
    assert both.plan.frozen == ("a1", "a2", "b1")
    assert both.price.flops == step_flops(SURVEY, both.plan.frozen).total


def test_a_calendar_is_exempt_from_prices_and_patience_and_a_thaw_from_prices() -> None:
    config = FreezeConfig(patience=5, min_gain=0.9)
    last = make_plan(B, PlannerState(), yes("a1"), SURVEY, config, step=9, total_steps=10, calendar=True)
    assert (last.plan.frozen, last.refused) == (("a1",), None)
    assert make_plan(A, PlannerState(), thawing("a1"), SURVEY, config, step=9, total_steps=10).plan.frozen == ()
    start = make_plan(B, PlannerState(), yes("a1"), SURVEY, config, step=0, total_steps=10, calendar=True)
    assert start.plan.frozen == ("a1",)  # before the first step the stage lies before 0


# -- any sequence ----------------------------------------------------------------------------------------------------


@st.composite
def models(draw: st.DrawFn) -> Survey:
    count = draw(st.integers(1, 7))
    units = []
    for i in range(count):
        sites = tuple(
            Site(o, draw(st.integers(0, o)), f := draw(st.integers(0, 9)), f)
            for o in sorted({i, draw(st.integers(i, count))})
        )
        units.append(dataclasses.replace(UNITS[0], name=f"u{i}", index=i, block=f"k{i // 2}", sites=sites))
    unused = [dataclasses.replace(UNITS[-1], name=f"z{i}", index=count + i) for i in range(draw(st.integers(0, 1)))]
    return Survey(units + unused, ())


@settings(max_examples=150, deadline=None)
@given(st.data(), models(), st.sampled_from(["prefix", "any"]), st.floats(0, 1), st.integers(1, 3), st.booleans())
def test_whatever_is_said_the_rules_hold(
    data: st.DataObject, survey: Survey, mode: str, ratio: float, patience: int, calendar: bool
) -> None:
    units, names = survey.units, [u.name for u in survey.units]
    used = [u.name for u in units if u.used]
    pinned = data.draw(st.frozensets(st.sampled_from(names)))
    config = FreezeConfig(
        mode=mode, max_frozen_ratio=ratio, patience=patience, decision_delay=data.draw(st.integers(0, 2))
    )  # type: ignore[arg-type]
    plan, state, digests, commanded = FreezePlan(), PlannerState(), {FreezePlan().digest}, False
    for step in range(1, data.draw(st.integers(2, 7))):
        before, kind = plan, data.draw(st.sampled_from(["stage", "stage", "stage", "thaw", "freeze"]))
        chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
        if kind == "stage":
            verdicts = []
            for name in chosen:
                back = name in plan.frozen and data.draw(st.booleans())
                p = data.draw(st.none() | st.floats(0, 1))
                verdicts.append(Verdict(name, not back and data.draw(st.booleans()), p, back))
            demanded = {v.unit for v in verdicts if v.converged and v.probability is None} - pinned
            if not calendar and set(used) <= {*plan.frozen, *demanded} and used[-1] in demanded:
                continue  # an error, tried elsewhere
            args = (plan, state, verdicts, survey, config)
            more = {"step": step, "total_steps": 20, "pinned": pinned, "calendar": calendar}
            planned = make_plan(*args, **more)  # type: ignore[arg-type]
            assert planned == make_plan(*args, **more)  # type: ignore[arg-type]
            plan, state = planned.plan, planned.state
            fresh = [v.unit for v in verdicts if v.thaw]
            assert not set(fresh) & set(plan.frozen)
            if planned.refused:
                assert not plan.newly_frozen(before)
        else:
            try:
                if kind == "thaw":
                    plan, state = thaw(plan, state, chosen, units, config, step=step)
                    assert not set(chosen) & set(plan.frozen)
                    assert not any(n in state.streaks for n in plan.thawed(before))
                else:
                    plan, state = freeze(plan, state, chosen, units, config, step=step, pinned=pinned)
                    assert set(chosen) <= set(plan.frozen)
                    commanded |= plan != before
            except PlanError as error:
                refused = str(error)
            else:
                refused = ""
            assert not refused or (plan is before and any(repr(name) in refused for name in chosen))
        check(plan, units, pinned)
        assert used[-1] not in plan.frozen
        assert not pinned & set(plan.frozen)
        assert list(plan.frozen) == [n for n in used if n in plan.frozen]
        assert len(plan.frozen) <= ratio * len(used) + 1e-6
        assert plan.seq == before.seq + (plan.frozen != before.frozen)
        assert (plan.digest in digests) == (plan.frozen == before.frozen)
        digests.add(plan.digest)
        assert not set(plan.frozen) & {*state.streaks, *state.thawed}
        if mode == "prefix" and not commanded:
            assert plan.frozen == tuple(used[: len(plan.frozen)])
        assert PlannerState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@settings(max_examples=150, deadline=None)
@given(st.data(), models())
def test_freezing_more_never_costs_more(data: st.DataObject, survey: Survey) -> None:
    """What lets the planner weigh all that is ready at once: if it does not pay, no part of it does."""
    names = [u.name for u in survey.units if u.used]
    less = data.draw(st.frozensets(st.sampled_from(names)))
    more = less | data.draw(st.frozensets(st.sampled_from(names)))
    assert step_flops(survey, more).total <= step_flops(survey, less).total


def test_checkpoints_from_before_there_was_thawing_load() -> None:
    assert PlannerState.from_dict({"streaks": {"a1": 2}}) == PlannerState({"a1": 2})
