"""The cache under DDP, which calls the bare model, with accumulation by ``no_sync``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from freezer.cache import CacheSettings, ForwardCache
from tests.unit.freezer.cache.models import CASES
from tests.unit.freezer.cache.runs import Run, batches, same_weights


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_ddp_with_no_sync(name: str, alone: None) -> None:
    case = CASES[name]
    runs = [Run(case), Run(case)]
    for run in runs:
        run.freeze(*case.frozen)
    cache = ForwardCache(runs[1].model, CacheSettings())
    cache.retarget("x", 100)
    wrapped = [DistributedDataParallel(run.model, init_sync=False) for run in runs]
    for i, ids in enumerate(batches(24, 8, 4)):
        losses = []
        for run, ddp in zip(runs, wrapped, strict=True):
            run.model.eval()  # no dropout: both share the random state here
            args, kwargs = case.call({k: v[ids] for k, v in run.data.items()})
            around = cache.around(ids, None, args, kwargs) if run is runs[1] else nullcontext()
            with ddp.no_sync() if i % 2 == 0 else nullcontext():
                with around:
                    loss = case.loss(ddp(*args, **kwargs))
                loss.backward()
            if i % 2:
                run.optimizer.step()
                run.optimizer.zero_grad()
            losses.append(loss.detach())
        assert torch.equal(*losses)
    same_weights(runs[0].model, runs[1].model)
    assert cache.report()["hits"] == 72
