"""A user's policy is a class with two methods; everything else is filled in."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import Any, cast

import pytest

from freezer import policies
from freezer.config import POLICIES, FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.base import Decides, Policy, PolicyContext, Verdict, complete, overrides


class TwoMethods:
    def __init__(self, config: FreezeConfig) -> None:
        self.options = config.options

    def decide(self, context: PolicyContext) -> list[Verdict]:
        return [Verdict(context.units[0].name, True)]


class WithRates(TwoMethods):
    name = "own-name"
    calendar = True

    def rates(self, step: int, total_steps: int, units: Any) -> dict[str, float]:
        del units
        return {"stem": step / total_steps}


class NoDecide:
    def __init__(self, config: FreezeConfig) -> None:
        del config


class HalfState(TwoMethods):
    def state_dict(self) -> dict[str, Any]:
        return {}


class NoMethod(TwoMethods):
    rates = {"stem": 0.5}  # noqa: RUF012


class NoName(TwoMethods):
    name = None


def _complete(policy: object) -> Policy:
    return complete(cast(Decides, policy), "mine")


def test_two_methods_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:TwoMethods", policies.GROUP)
    monkeypatch.setattr(policies, "entry_points", lambda group: [point] if group == policies.GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: {"mine": TwoMethods}[self.name])
    policy = policies.make(FreezeConfig(policy="mine", options={"any": 1}))
    assert policy.name == "mine"
    assert (policy.calendar, policy.at_start) == (False, False)
    assert policy.state_dict() == {}
    policy.load_state_dict({})
    with pytest.raises(ValueError, match="'mine' has no state"):
        policy.load_state_dict({"a": 1})
    assert policy.collect(3) == {}
    assert policy.rates(0, 10, []) == {}
    assert not any(overrides(policy, member) for member in ("rates", "watch", "collect", "state_dict"))


def test_members_that_are_there_are_used() -> None:
    policy = _complete(WithRates(FreezeConfig()))
    assert (policy.name, policy.calendar) == ("own-name", True)
    assert policy.rates(5, 10, []) == {"stem": 0.5}
    assert overrides(policy, "rates")
    assert not overrides(policy, "watch")


def test_a_whole_policy_stays_what_it_is() -> None:
    made = policies.make(FreezeConfig(policy="linear"))
    assert complete(made, "linear") is made


@pytest.mark.parametrize(
    ("policy", "match"),
    [
        (NoDecide(FreezeConfig()), "policy 'mine' (NoDecide) has no method 'decide'"),
        (HalfState(FreezeConfig()), "one of state_dict and load_state_dict"),
        (NoMethod(FreezeConfig()), "'rates' of policy 'mine' (NoMethod) must be a method"),
        (NoName(FreezeConfig()), "'name' of policy 'mine' (NoName) must be a text"),
        (TwoMethods, "is the class TwoMethods, not an object of it"),
    ],
)
def test_what_cannot_decide_or_resume_is_refused(policy: object, match: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(match)) as caught:
        _complete(policy)
    assert caught.value.pointer == "/policy"


def test_calendars_and_starts_are_marked() -> None:
    options: dict[str, Any] = {"static": {"first": 1}, "smartfrz-paper": {"weights": "w"}}
    names = [name for name in POLICIES if name != "smartfrz-paper"]
    made = [policies.make(FreezeConfig(policy=name, options=options.get(name, {}))) for name in names]
    assert {p.name for p in made if p.calendar} == {"static", "linear", "freezeout", "none", "random", "thaw-last"}
    assert [p.name for p in made if p.at_start] == ["static", "thaw-last"]
    assert [p.name for p in made if overrides(p, "rates")] == ["freezeout", "thaw-last"]
    assert [p.name for p in made if overrides(p, "watch")] == ["autofreeze", "egeria"]
