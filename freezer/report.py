"""Rows of the freeze status document: one for each unit. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from freezer.plan import FreezePlan
from freezer.planner import PlannerState, head_of
from freezer.units import Unit
from freezer.worth import Price


def unit_rows(
    units: Sequence[Unit],
    plan: FreezePlan,
    planner: PlannerState,
    history: Sequence[Mapping[str, Any]],
    pinned: Collection[str],
    filled: Mapping[str, int],
    prices: Mapping[str, Price] | None = None,
) -> list[dict[str, Any]]:
    """One JSON row for each unit, in execution order. The head counts as pinned: it is never frozen.

    Args:
        prices: of each unit alone (:func:`freezer.worth.unit_prices`); what is unknown is null.
    """
    prices = prices or {}
    head = head_of(units)
    frozen_at: dict[str, int] = {}
    thawed: set[str] = set()
    for entry in history:
        frozen_at.update(dict.fromkeys(entry["frozen"], entry["step"]))
        thawed |= set(entry["thawed"])

    def state(unit: Unit) -> str:
        if unit.name in plan.frozen:
            return "frozen"
        if unit.name in pinned or unit.name == head or not unit.used:
            return "pinned"
        if planner.streaks.get(unit.name):
            return "candidate"
        return "thawed" if unit.name in thawed else "active"

    return [
        {
            "name": unit.name,
            "index": unit.index,
            "block": unit.block,
            "state": state(unit),
            "used": unit.used,
            "probability": plan.probabilities.get(unit.name),
            "frozen_at_step": frozen_at.get(unit.name) if unit.name in plan.frozen else None,
            "parameters": unit.parameters,
            "flops": unit.flops,
            "activation_bytes": unit.activation_bytes,
            **_priced(prices.get(unit.name)),
            "window_filled": filled.get(unit.name, 0),
        }
        for unit in units
    ]


def _priced(price: Price | None) -> dict[str, int | None]:
    return {
        "stored_activation_bytes": price.activation_bytes if price else None,
        "allreduce_bytes": price.allreduce_bytes if price else None,
        "optimizer_bytes": price.optimizer_bytes if price else None,
    }
