"""What a wrapper leaves behind when the plan changes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from freezer import parallel
from freezer.config import FreezeConfig
from freezer.freezer import Freezer


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What goes, goes because nobody holds it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("alone", "without_collector")
def test_the_old_buckets_are_gone_before_the_new_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    class Wrapper(parallel.DistributedDataParallel):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            alive.append(sum(wrapper() is not None for wrapper in made))
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr(parallel, "DistributedDataParallel", Wrapper)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, FreezeConfig(policy="none"), total_steps=20, parallel=parallel.DDP())
    for step in range(6):
        optimizer.zero_grad()
        freezer.model(torch.randn(2, 4)).sum().backward()
        optimizer.step()
        freezer.step()
        if step == 1:
            freezer.freeze([freezer.units[0].name])
        if step == 3:
            freezer.thaw()
    assert alive == [0, 0, 0]
    freezer.close()
