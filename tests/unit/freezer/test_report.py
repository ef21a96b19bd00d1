"""Rows of the status document: what a unit alone costs, and null where it is unknown."""

from __future__ import annotations

from typing import Any

import torch

from freezer.held import measure_held
from freezer.plan import FreezePlan, PlannerState
from freezer.report import unit_rows
from freezer.saved import measure_saved
from freezer.units import survey
from freezer.worth import unit_prices
from tests.unit.freezer.toys import Transformer, tokens


def test_rows_carry_the_prices() -> None:
    model, batch = Transformer(), tokens()
    found = survey(model, (batch,), {}, "layer")
    saved = measure_saved(model, found.units, (batch,))
    held = measure_held(model, torch.optim.AdamW(model.parameters()), found.units, saved)
    arguments: Any = (found.units, FreezePlan(), PlannerState(), [], (), {})
    rows = unit_rows(*arguments, prices=unit_prices(found, held))
    assert [r["allreduce_bytes"] for r in rows] == [4 * u.parameters for u in found.units]
    assert sum(r["stored_activation_bytes"] for r in rows) == saved.total
    assert {r["optimizer_bytes"] for r in rows} == {None}  # no step yet
    assert unit_rows(*arguments)[0]["stored_activation_bytes"] is None


def test_states_of_units() -> None:
    found = survey(Transformer(unused=True), (tokens(),), {}, "layer")
    names = [unit.name for unit in found.units]
    plan = FreezePlan(2, 9, (names[0],), {names[0]: 0.8})
    history = [{"step": 5, "frozen": names[:2], "thawed": []}, {"step": 9, "frozen": [], "thawed": [names[1]]}]
    planner = PlannerState({names[2]: 1}, {names[1]: 9})
    rows = {r["name"]: r for r in unit_rows(found.units, plan, planner, history, {names[3]}, {names[0]: 3})}
    states = [rows[name]["state"] for name in names]
    assert states[:5] == ["frozen", "thawed", "candidate", "pinned", "active"]
    assert states[-2:] == ["pinned", "pinned"]  # the head, and what never runs
    assert [rows[name]["frozen_at_step"] for name in names[:2]] == [5, None]
    assert (rows[names[0]]["probability"], rows[names[0]]["window_filled"]) == (0.8, 3)
