"""PURE: verdicts and prices in, a plan out. Nothing here touches a model, a clock or another process."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from freezer.config import FreezeConfig
from freezer.cost import step_flops
from freezer.errors import PlanError
from freezer.plan import FreezePlan, PlannerState
from freezer.planner_checks import check, check_honoured, head_of, matching, resolve_pins
from freezer.planner_commands import following, forgotten, freeze, released, room, thaw
from freezer.policies.base import Verdict
from freezer.policies.static import wanted
from freezer.units import Survey, Unit
from freezer.worth import Held, Price, price, shortfall

__all__ = [
    "Planned",
    "PlannerState",
    "check",
    "check_static",
    "freeze",
    "head_of",
    "make_plan",
    "matching",
    "resolve_pins",
    "thaw",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """What came of one freezing stage.

    Attributes:
        plan: in force from now on; the plan before it where nothing changed.
        state: for the next stage.
        price: of a step under the plan.
        refused: why units that have converged stay active all the same (the change would not pay), or ``None``.
    """

    plan: FreezePlan
    state: PlannerState
    price: Price
    refused: str | None = None


def make_plan(
    before: FreezePlan,
    state: PlannerState,
    verdicts: Sequence[Verdict],
    survey: Survey,
    config: FreezeConfig,
    *,
    step: int,
    total_steps: int,
    pinned: Collection[str] = (),
    calendar: bool = False,
    held: Held | None = None,
) -> Planned:
    """The plan that takes effect after ``step`` completed steps of ``total_steps``.

    Thaws come first and are never weighed against FLOPs. A unit is ready to freeze after ``config.patience`` positive
    verdicts in a row; verdicts without a probability are no noisy evidence and count at once. Units that are ready
    and may freeze (mode, pins, ratio) do so together if that pays (:func:`freezer.worth.shortfall`); else they stay
    candidates. ``calendar`` exempts from both. Frozen units stay frozen until something thaws them.

    The last unit is never frozen: a calendar's turn for it, and evidence (a probability) that it has converged too, are
    passed over. Any other policy that demands to freeze it together with all the rest has a mistake in it.

    Args:
        held: bytes for :attr:`Planned.price`; decisions never depend on them.

    Raises:
        PlanError: a verdict on an unknown unit, two on the same, one that is both converged and thaw, the thaw of a
            unit that is not frozen, a probability that is none, or nothing would be left to train.
    """
    units = survey.units
    stage = step - config.decision_delay
    said = _by_unit(verdicts, units)
    # what was thawed since the stage began was judged while it was still frozen: too old to act upon
    said = {n: v for n, v in said.items() if n in before.frozen or n not in state.thawed or state.thawed[n] < stage}
    for name, verdict in said.items():
        if verdict.thaw and name not in before.frozen:
            raise PlanError(f"the policy thaws {name!r}, which is not frozen")
    gone = [name for name, verdict in said.items() if verdict.thaw]
    base, state = released(before, state, gone, units, config, step=step)

    streaks: dict[str, int] = {}
    ready: set[str] = set()
    for name, verdict in said.items():
        if verdict.converged and name not in before.frozen:
            streaks[name] = state.streaks.get(name, 0) + 1
            if calendar or verdict.probability is None or streaks[name] >= config.patience:
                ready.add(name)

    ready -= set(pinned)
    if not calendar:
        _refuse_everything({*base.frozen, *(name for name in ready if said[name].probability is None)}, units)
    frozen = _choose(set(base.frozen), ready, units, config)
    refused = None
    if frozen != base.frozen and not calendar:
        now, then, full = (step_flops(survey, names).total for names in (base.frozen, frozen, ()))
        refused = shortfall(now, then, full, total_steps - step, config.least_gain, config.event_steps)
        if refused is not None:
            added = ", ".join(name for name in frozen if name not in base.frozen)
            refused, frozen = f"{added}: {refused}", base.frozen
    plan = following(before, frozen, step)
    probabilities = {**before.probabilities, **{n: v.probability for n, v in said.items() if v.probability is not None}}
    plan = FreezePlan(plan.seq, plan.step, plan.frozen, probabilities)
    check(plan, units, pinned)
    state = forgotten(PlannerState(streaks, state.thawed), frozen)
    return Planned(plan, state, price(survey, frozen, held), refused)


def check_static(units: Sequence[Unit], config: FreezeConfig, pinned: Collection[str]) -> None:
    """What policy ``static`` will freeze, now or later, can be frozen: told before the first step, not in mid-run.

    Raises:
        ConfigError: as :func:`freezer.planner_checks.check_honoured`.
    """
    asked = wanted(config, units)
    check_honoured(asked, _choose(set(), set(asked) - set(pinned), units, config))


def _by_unit(verdicts: Sequence[Verdict], units: Sequence[Unit]) -> Mapping[str, Verdict]:
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
        if verdict.converged and verdict.thaw:
            raise PlanError(f"the policy both freezes and thaws {verdict.unit!r}: a verdict can only do one of them")
        said[verdict.unit] = verdict
    return said


def _refuse_everything(demanded: Collection[str], units: Sequence[Unit]) -> None:
    head = head_of(units)
    if head in demanded and all(unit.name in demanded for unit in units if unit.used):
        raise PlanError(f"the policy freezes every unit, {head!r} with them: nothing would be left to train")


def _choose(frozen: set[str], ready: set[str], units: Sequence[Unit], config: FreezeConfig) -> tuple[str, ...]:
    """Frozen units in execution order: old ones always, ready ones as mode and ratio allow."""
    used = [unit.name for unit in units if unit.used]
    left = room(units, config) - len(frozen)
    for name in used[:-1]:
        if name in frozen:
            continue
        if name in ready and left > 0:
            frozen.add(name)
            left -= 1
        elif config.mode == "prefix":
            break
    return tuple(name for name in used if name in frozen)
