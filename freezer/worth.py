"""The price of a frozen set in one step over the surveyed batch, and whether a change pays for itself. Pure.

FLOPs are estimated from measured layers (:mod:`freezer.cost`); bytes come from measurements in :class:`Held`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from freezer.cost import step_flops
from freezer.saved import Saved
from freezer.units import Survey


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes measured on the real model and optimizer, by unit.

    Attributes:
        gradient: of all gradients; what a unit that trains hands to all-reduce at each synchronisation.
        optimizer: of optimizer state; ``None`` for a unit whose state does not exist yet.
        saved: what one forward pass stores for its backward pass, or ``None`` where it was not measured.
    """

    gradient: Mapping[str, int] = field(default_factory=dict)
    optimizer: Mapping[str, int | None] = field(default_factory=dict)
    saved: Saved | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One step over the surveyed batch on one rank. ``None`` is unknown.

    Attributes:
        forward, input_grad, weight_grad: FLOPs.
        activation_bytes: stored by the forward pass for the backward pass.
        activation_estimated: a bound from above rather than a derived figure; see :meth:`freezer.saved.Saved.bytes`.
        allreduce_bytes: gradients of what trains and runs, reduced at each synchronisation.
        optimizer_bytes: optimizer state of what trains.
    """

    forward: int
    input_grad: int
    weight_grad: int
    activation_bytes: int | None = None
    activation_estimated: bool = False
    allreduce_bytes: int | None = None
    optimizer_bytes: int | None = None

    @property
    def flops(self) -> int:
        """All FLOPs of the step."""
        return self.forward + self.input_grad + self.weight_grad

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def price(survey: Survey, frozen: Collection[str] = (), held: Held | None = None) -> Price:
    """What a step costs while ``frozen`` units are frozen."""
    flops = step_flops(survey, frozen)
    held = held or Held()
    active = [unit.name for unit in survey.units if unit.used and unit.name not in frozen]
    stored = held.saved.bytes(frozen) if held.saved is not None else None
    return Price(
        forward=flops.forward,
        input_grad=flops.input_grad,
        weight_grad=flops.weight_grad,
        activation_bytes=stored,
        activation_estimated=held.saved is not None and not held.saved.exact(frozen),
        allreduce_bytes=_sum(held.gradient, active),
        optimizer_bytes=_sum(held.optimizer, active),
    )


def prices_of(survey: Survey, frozen: Collection[str], held: Held) -> dict[str, Any]:
    """Price of a step of full training and of one now; JSON values."""
    return {"full": price(survey, (), held).to_dict(), "now": price(survey, frozen, held).to_dict()}


def unit_prices(survey: Survey, held: Held | None = None) -> dict[str, Price]:
    """What each unit alone contributes to a step of full training, in execution order.

    FLOPs and bytes add up to those of ``price(survey)``, what the user froze from the start and what no unit stored
    left aside.
    """
    held = held or Held()
    first = min((s.order for u in survey.units if u.used for s in u.sites), default=0)
    stored = held.saved.by_unit() if held.saved is not None else None
    return {
        unit.name: Price(
            forward=sum(s.flops + s.pair_flops for s in unit.sites),
            input_grad=sum((s.flops if s.input_order > first else 0) + s.pair_backward for s in unit.sites),
            weight_grad=sum(s.weight_flops for s in unit.sites),
            activation_bytes=None if stored is None else stored.get(unit.name, 0),
            allreduce_bytes=held.gradient.get(unit.name) if unit.used else 0,
            optimizer_bytes=held.optimizer.get(unit.name) if unit.used else 0,
        )
        for unit in survey.units
    }


def shortfall(
    before: int, after: int, full: int, remaining_steps: int, min_gain: float, event_steps: float = 1.0
) -> str | None:
    """Why a change from ``before`` to ``after`` FLOPs a step does not pay, or ``None`` if it does.

    It must save ``min_gain`` of a ``full`` step in each step, and over ``remaining_steps`` more than ``event_steps``
    full steps, the price of an event; 0: nothing is asked. Freezing more never costs more, so if all that is ready
    does not pay, no part of it does.
    """
    gain = before - after
    share = gain / full if full else 0.0
    if gain < min_gain * full:
        return f"it would save {share:.2%} of a full step, and min_gain is {min_gain:.2%}"
    if event_steps and gain * remaining_steps <= full * event_steps:
        return (
            f"it would save {share:.2%} of a full step in each of {remaining_steps} remaining steps: "
            f"not more than the {event_steps:g} full steps that a change may cost"
        )
    return None


def pays(before: Price, after: Price, full: Price, remaining_steps: int, min_gain: float) -> bool:
    """Whether a change is worth its event; see :func:`shortfall`. FLOPs alone decide: they are the same everywhere."""
    return shortfall(before.flops, after.flops, full.flops, remaining_steps, min_gain) is None


def _sum(by_unit: Mapping[str, int | None] | Mapping[str, int], names: Collection[str]) -> int | None:
    total = 0
    for name in names:
        value = by_unit.get(name)
        if value is None:
            return None
        total += value
    return total
