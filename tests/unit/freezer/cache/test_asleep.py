"""Frozen modules sleep, whatever ``train()`` writes: a cut over them holds through evaluations."""

from __future__ import annotations

import torch

from freezer.cache.attributes import Attributes
from freezer.cache.keys import Watch
from freezer.freezer import Freezer
from tests.unit.freezer.toys import Transformer, settings, tokens


def test_the_cut_lasts_from_one_evaluation_to_the_next() -> None:
    torch.manual_seed(0)
    model, data = Transformer(), tokens(8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, settings(policy="none", cache="auto"), total_steps=40)
    freezer.prepare(data)
    first = [unit.name for unit in freezer.units if unit.name.startswith(("cls", "embed", "blocks.0"))]
    freezer.freeze(first)
    searched = []
    for _ in range(6):
        freezer.model.eval()
        with torch.no_grad():
            freezer.model(data)
        freezer.model.train()  # what lies inside the block is skipped from now on, and never told to sleep again
        with freezer.batch(range(8)):
            freezer.model(data).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        searched.append(freezer.cache.report()["seconds"]["search"])
    assert freezer.cache.report()["cut"] == "blocks.0"
    assert freezer.cache.report()["hits"] == 40
    assert searched[-1] == searched[0]
    freezer.close()


def test_sparse_buffers_are_watched_as_dense_ones() -> None:
    adjacency = torch.eye(4).to_sparse()
    watch = Watch({"adjacency": adjacency, "scale": torch.ones(3)}, [], Attributes({}))
    before = watch.digest()
    assert watch.still
    assert watch.digest() == before
    adjacency.mul_(2.0)
    assert not watch.still
    assert watch.digest() != before
