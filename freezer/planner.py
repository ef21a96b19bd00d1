"""PURE: verdicts and settings in, a plan out. Nothing here touches a model, a clock or another process."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from freezer.config import FreezeConfig
from freezer.errors import ConfigError, PlanError
from freezer.plan import FreezePlan
from freezer.policies.base import Verdict
from freezer.units import Unit


@dataclass(frozen=True, slots=True)
class PlannerState:
    """Positive verdicts in a row of each unit; units without any are left out."""

    streaks: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"streaks": dict(self.streaks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlannerState:
        return cls({str(name): int(count) for name, count in values["streaks"].items()})


def head_of(units: Sequence[Unit]) -> str | None:
    """The last unit that runs. It is never frozen: something must be left to train."""
    return next((unit.name for unit in reversed(units) if unit.used), None)


def resolve_pins(pins: Sequence[str], units: Sequence[Unit]) -> frozenset[str]:
    """Names of the units that the user's names, blocks or ``*`` patterns mean.

    Raises:
        ConfigError: one of them matches nothing; its pointer says which.
    """
    found: set[str] = set()
    for position, pin in enumerate(pins):
        matched = {u.name for u in units if pin in (u.name, u.block) or fnmatchcase(u.name, pin)}
        if not matched:
            known = ", ".join(u.name for u in units)
            raise ConfigError(f"pin {pin!r} matches no unit; units: {known}", f"/pin/{position}")
        found |= matched
    return frozenset(found)


def check(plan: FreezePlan, units: Sequence[Unit], pinned: Collection[str] = ()) -> None:
    """Refuse a plan that must not be applied.

    Raises:
        PlanError: it names an unknown, pinned or unused unit, a unit twice, or leaves nothing to train.
    """
    known = {unit.name: unit for unit in units}
    for name in plan.frozen:
        if name not in known:
            raise PlanError(f"plan {plan.seq} freezes {name!r}, which is no unit of this model")
        if name in pinned:
            raise PlanError(f"plan {plan.seq} freezes {name!r}, which is pinned")
        if not known[name].used:
            raise PlanError(f"plan {plan.seq} freezes {name!r}, which never runs")
    if len(set(plan.frozen)) != len(plan.frozen):
        raise PlanError(f"plan {plan.seq} names a unit twice: {', '.join(plan.frozen)}")
    head = head_of(units)
    if head in plan.frozen:
        raise PlanError(f"plan {plan.seq} freezes {head!r}, the last unit: nothing would be left to train")


def check_honoured(options: Mapping[str, Any], plan: FreezePlan, units: Sequence[Unit]) -> None:
    """Units that policy ``static`` was told to freeze must be: settings that cancel each other must not be a no-op.

    Raises:
        ConfigError: names the first unit that is not, and what may stand in the way.
    """
    first = [unit.name for unit in units if unit.used][: options.get("first", 0)]
    wanted = [(name, f"/options/units/{i}") for i, name in enumerate(options.get("units", ()))]
    for name, pointer in wanted or [(name, "/options/first") for name in first]:
        if name not in plan.frozen:
            raise ConfigError(
                f"{name!r} is named to be frozen but cannot be: it is the last unit, pinned, beyond max_frozen_ratio, "
                'or not at the input (then set mode to "any", or name every unit before it too)',
                pointer,
            )


def make_plan(
    before: FreezePlan,
    state: PlannerState,
    verdicts: Sequence[Verdict],
    units: Sequence[Unit],
    config: FreezeConfig,
    *,
    step: int,
    pinned: Collection[str] = (),
) -> tuple[FreezePlan, PlannerState]:
    """The plan that takes effect after ``step`` completed steps, and the state for the next stage.

    Hysteresis: a unit freezes after ``config.patience`` positive verdicts in a row. Verdicts without a probability
    come from a calendar, not from noisy evidence, and count at once. Frozen units stay frozen.

    Raises:
        PlanError: a verdict on an unknown unit, two on the same, or a probability that is none.
    """
    said = _by_unit(verdicts, units)
    streaks: dict[str, int] = {}
    ready: set[str] = set()
    for name, verdict in said.items():
        if verdict.converged and name not in before.frozen:
            streaks[name] = state.streaks.get(name, 0) + 1
            if streaks[name] >= config.patience or verdict.probability is None:
                ready.add(name)

    frozen = _choose(set(before.frozen), ready - set(pinned), units, config)
    probabilities = dict(before.probabilities)
    probabilities.update({n: v.probability for n, v in said.items() if v.probability is not None})
    changed = frozen != before.frozen
    plan = FreezePlan(before.seq + changed, step if changed else before.step, frozen, probabilities)
    check(plan, units, pinned)
    return plan, PlannerState({n: count for n, count in streaks.items() if n not in frozen})


def _by_unit(verdicts: Sequence[Verdict], units: Sequence[Unit]) -> dict[str, Verdict]:
    known = {unit.name for unit in units}
    said: dict[str, Verdict] = {}
    for verdict in verdicts:
        p = verdict.probability
        if verdict.unit not in known:
            raise PlanError(f"the policy speaks of {verdict.unit!r}, which is no unit of this model")
        if verdict.unit in said:
            raise PlanError(f"the policy speaks twice of {verdict.unit!r}")
        if p is not None and not (math.isfinite(p) and 0.0 <= p <= 1.0):
            raise PlanError(f"the policy gives {verdict.unit!r} the probability {p}, which is none")
        said[verdict.unit] = verdict
    return said


def _choose(frozen: set[str], ready: set[str], units: Sequence[Unit], config: FreezeConfig) -> tuple[str, ...]:
    """Frozen units in execution order: old ones always, ready ones as mode and ratio allow."""
    used = [unit.name for unit in units if unit.used]
    room = math.floor(config.max_frozen_ratio * len(used) + 1e-9) - len(frozen)
    for name in used[:-1]:
        if name in frozen:
            continue
        if name in ready and room > 0:
            frozen.add(name)
            room -= 1
        elif config.mode == "prefix":
            break
    return tuple(name for name in used if name in frozen)
