"""PURE: what a plan, a pin or a command may name. Refuses before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from freezer.errors import ConfigError, PlanError
from freezer.plan import FreezePlan
from freezer.units import Unit


def head_of(units: Sequence[Unit]) -> str | None:
    """The last unit that runs. It is never frozen: something must be left to train."""
    return next((unit.name for unit in reversed(units) if unit.used), None)


def matching(wanted: str, units: Sequence[Unit]) -> tuple[str, ...]:
    """Names of the units that a unit's name, a block's name or a ``*`` pattern means, in execution order."""
    exact = tuple(u.name for u in units if u.name == wanted)
    return exact or tuple(u.name for u in units if wanted == u.block or fnmatchcase(u.name, wanted))


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


def check_honoured(wanted: Mapping[str, str], frozen: Collection[str]) -> None:
    """Units that policy ``static`` was told to freeze must be: settings that cancel each other must not be a no-op.

    Args:
        wanted: where in the settings each was asked for, by name.
        frozen: those that a plan can hold.

    Raises:
        ConfigError: names the first unit that is not, and what may stand in the way.
    """
    for name, pointer in wanted.items():
        if name not in frozen:
            raise ConfigError(
                f"{name!r} is named to be frozen but cannot be: it is the last unit, pinned, beyond max_frozen_ratio, "
                'or not at the input (then set mode to "any", or name every unit before it too)',
                pointer,
            )
