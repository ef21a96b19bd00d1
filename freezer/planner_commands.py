"""PURE: freeze and thaw because somebody said so: a command, or a trigger. No price is asked, no streak."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from freezer.config import FreezeConfig
from freezer.errors import PlanError
from freezer.plan import FreezePlan, PlannerState
from freezer.planner_checks import check, head_of, matching
from freezer.units import Unit


def thaw(
    before: FreezePlan,
    state: PlannerState,
    names: Sequence[str] | None,
    units: Sequence[Unit],
    config: FreezeConfig,
    *,
    step: int,
) -> tuple[FreezePlan, PlannerState]:
    """Let units train again after ``step`` completed steps; in mode ``prefix`` everything behind them too.

    Args:
        names: units, blocks or ``*`` patterns; of a block, what is frozen of it. ``None``: everything that is frozen;
            then all streaks start anew, for what they counted was said under other circumstances.

    Raises:
        PlanError: a name is no unit, or nothing that it means is frozen.
    """
    if names is None:
        return released(before, PlannerState({}, state.thawed), before.frozen, units, config, step=step)
    wanted: set[str] = set()
    for name in names:
        found = [n for n in _known(name, units) if n in before.frozen]
        if not found:
            raise PlanError(f"{name!r} cannot be thawed: it is not frozen. Frozen: {_listed(before.frozen)}")
        wanted.update(found)
    return released(before, state, wanted, units, config, step=step)


def freeze(
    before: FreezePlan,
    state: PlannerState,
    names: Sequence[str],
    units: Sequence[Unit],
    config: FreezeConfig,
    *,
    step: int,
    pinned: Collection[str],
) -> tuple[FreezePlan, PlannerState]:
    """Freeze units after ``step`` completed steps, wherever they stand and whatever the mode; frozen ones stay so.

    Args:
        names: units, blocks or ``*`` patterns; of a pattern or block, all units must be free to be frozen.

    Raises:
        PlanError: a unit is unknown, pinned, never runs, is the last one, or is beyond ``max_frozen_ratio``.
    """
    wanted = set(before.frozen)
    runs = {unit.name: unit.used for unit in units}
    for name in names:
        for unit in _known(name, units):
            if unit in pinned:
                raise PlanError(f"{unit!r} cannot be frozen: it is pinned. Unpin it first")
            if unit == head_of(units):
                raise PlanError(f"{unit!r} cannot be frozen: it is the last unit, and something must be left to train")
            if not runs[unit]:
                raise PlanError(f"{unit!r} cannot be frozen: it never ran in the example batch, so it costs nothing")
            wanted.add(unit)
    frozen = tuple(unit.name for unit in units if unit.name in wanted)
    most = room(units, config)
    added = [name for name in frozen if name not in before.frozen]
    if added and len(frozen) > most:
        raise PlanError(
            f"{added[-1]!r} cannot be frozen: {len(frozen)} units would be, and max_frozen_ratio "
            f"{config.max_frozen_ratio:g} allows {most}. Thaw another one, or raise it"
        )
    plan = following(before, frozen, step)
    check(plan, units, pinned)
    return plan, forgotten(state, frozen)


def released(
    before: FreezePlan,
    state: PlannerState,
    names: Collection[str],
    units: Sequence[Unit],
    config: FreezeConfig,
    *,
    step: int,
) -> tuple[FreezePlan, PlannerState]:
    """The plan without ``names``, and in mode ``prefix`` without what is frozen behind the first of them."""
    gone = set(names)
    if config.mode == "prefix" and gone:
        first = next(i for i, name in enumerate(before.frozen) if name in gone)
        gone |= set(before.frozen[first:])
    plan = following(before, tuple(name for name in before.frozen if name not in gone), step)
    streaks = {name: count for name, count in state.streaks.items() if name not in gone}
    known = {unit.name for unit in units}
    thawed = {name: at for name, at in state.thawed.items() if name in known} | dict.fromkeys(sorted(gone), step)
    return plan, PlannerState(streaks, thawed)


def following(before: FreezePlan, frozen: tuple[str, ...], step: int) -> FreezePlan:
    """The plan after ``before`` that freezes ``frozen``; the same sequence and step where nothing changes."""
    changed = frozen != before.frozen
    return FreezePlan(before.seq + changed, step if changed else before.step, frozen, before.probabilities)


def forgotten(state: PlannerState, frozen: Collection[str]) -> PlannerState:
    """The state without what it holds about units that are frozen now."""
    return PlannerState(
        {name: count for name, count in state.streaks.items() if name not in frozen},
        {name: at for name, at in state.thawed.items() if name not in frozen},
    )


def room(units: Sequence[Unit], config: FreezeConfig) -> int:
    """How many units may be frozen together."""
    return math.floor(config.max_frozen_ratio * sum(unit.used for unit in units) + 1e-9)


def _known(name: str, units: Sequence[Unit]) -> tuple[str, ...]:
    found = matching(name, units)
    if not found:
        raise PlanError(f"no unit, block or pattern {name!r} in this model; units: {_listed([u.name for u in units])}")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
