"""Every row of the ablations can be made, on runs that were made up."""

from __future__ import annotations

import dataclasses

import torch

from benchmarks.ablations import GROUPS, choices, row_of, thinned
from freezer.offline.train import Recipe
from freezer.offline.windows import Example
from freezer.predictor.features import CONTEXT_NAMES
from tests.unit.freezer.offline.made_up import made


def test_every_row_can_be_made() -> None:
    examples = [
        dataclasses.replace(e, window=dataclasses.replace(e.window, values=torch.randn(len(e.window.steps), 1024)))
        for e in made("ab", 3, 0)
    ]

    def draw(length: int | None) -> list[Example]:
        return [e for e in examples if length != 30 or len(e.window.steps) == 30]

    rows = {}
    for name, architecture, config, chosen in choices(draw):
        rows[name] = row_of(architecture, config, chosen, Recipe(epochs=1))
    assert len(rows) == 24
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(CONTEXT_NAMES)
    assert {"attention -> linear model", "window: 30, raw weights (smartfrz-paper)", "window: 8"} <= set(rows)
    assert all(0 <= row["interval"][0] <= row["interval"][1] <= 1 for row in rows.values())


def test_thinned_windows_keep_the_same_weights_everywhere() -> None:
    ramp = torch.arange(1024.0).expand(5, 1024)
    examples = [
        dataclasses.replace(e, window=dataclasses.replace(e.window, values=ramp, steps=e.window.steps[:5]))
        for e in made("a", 1, 0)
    ]
    first, second = (example.window.values for example in thinned(examples, 128)[:2])
    assert first.shape == (5, 128)
    assert torch.equal(first, second)
    assert len(first[0].unique()) == 128
