"""Recorded runs that were made up: what is known of them is known exactly."""

from __future__ import annotations

import torch

from freezer.offline.corpus import Run, RunMeta
from freezer.offline.windows import Example, draw


def synthetic(network: str, seed: int, units: int = 12) -> tuple[Run, dict[str, int | None]]:
    """Runs where weights move fast until a unit's own moment, and hardly after it: the clock does not tell when."""
    generator = torch.Generator().manual_seed(seed)
    moments = torch.randint(10, 90, (units,), generator=generator).tolist()
    moving = torch.tensor([[1.0 if step < m else 0.05 for m in moments] for step in range(101)])
    steps = 0.02 * torch.randn(101, units, 64, generator=generator) * moving[..., None]
    values = torch.randn(units, 64, generator=generator) + steps.cumsum(0)
    names = [f"u{i}" for i in range(units)]
    meta = RunMeta(name=f"{network}{seed}", network=network, dataset="made", seed=seed, pretrained=False, units=names,
                   total_steps=100, recipe={}, outcome={}, seconds=0.0)  # fmt: skip
    run = Run(meta, values, torch.arange(101), torch.ones(101), torch.arange(2), torch.zeros(2, units))
    # Known only once most of a window is calm.
    return run, {name: moment + 4 for name, moment in zip(names, moments, strict=True)}


def made(networks: str, per_unit: int, seed: int) -> list[Example]:
    return [
        example
        for number, network in enumerate(networks)
        for example in draw(*synthetic(network, seed + number), per_unit, seed)
    ]
