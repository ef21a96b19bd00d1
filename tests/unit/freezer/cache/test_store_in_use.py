"""Bounds, tiers, partial misses, prefetch, and rows that outlive a change of the plan."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from freezer.cache import CacheSettings
from freezer.errors import CacheError
from tests.unit.freezer.cache.models import CASES
from tests.unit.freezer.cache.runs import Run, batches, both, same_weights, train

BERT = CASES["bert"]
ROW = 6 * 16 * 4


def test_memory_stays_within_its_bound_and_partial_misses_are_exact() -> None:
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=14 * ROW + 1)
    train(plain, cached, epochs=4)
    report = cached.cache.report()
    assert (report["rows_ram"], report["bytes_ram"], report["rows_disk"]) == (14, 14 * ROW, 0)
    assert report["hits"] == 3 * 14
    assert report["evictions"] == 0


def test_a_smaller_size_is_proven_once_it_was_wanted_often_enough() -> None:
    """Three of four rows lie in memory: what is missing comes to be computed fewer at a time than a whole batch."""
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=18 * ROW)
    train(plain, cached, epochs=2)
    assert cached.cache._line.verified.sizes == {8}, "for once or twice a proof does not pay"
    train(plain, cached, epochs=6, seed=6)
    assert cached.cache._line.verified.sizes > {8}


def test_frozen_sets_that_do_not_last_are_not_cached_until_one_does() -> None:
    plain, cached = Run(BERT), Run(BERT, CacheSettings(), samples=24)
    for left, prefixes in ((90, BERT.frozen[:1]), (89, BERT.frozen[:2]), (88, BERT.frozen)):
        for run in (plain, cached):
            run.freeze(*prefixes, left=left)
    assert cached.cache.report()["seconds"]["search"] == 0
    train(plain, cached, epochs=2)  # of three passes each
    assert "have lasted 1 steps on average" in cached.cache.reason
    assert cached.cache.report()["seconds"]["search"] == 0
    train(plain, cached, epochs=4)
    assert cached.cache.state == "on"
    assert cached.cache.report()["hits"] > 0


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_the_disk_tier_takes_what_memory_does_not(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "macos":
        monkeypatch.delattr(os, "posix_fallocate")
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=10 * ROW, disk_bytes=9 * ROW, directory=tmp_path)
    train(plain, cached, epochs=4)
    report = cached.cache.report()
    assert (report["rows_ram"], report["rows_disk"], report["bytes_disk"]) == (10, 9, 9 * ROW)
    assert report["hits"] == 3 * 19
    assert not list(tmp_path.iterdir())
    cached.cache.close()
    assert cached.cache.report()["bytes_disk"] == 0


def test_a_disk_that_cannot_hold_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=0, disk_bytes=99 * ROW, directory=tmp_path / "file")
    train(plain, cached, epochs=2)
    assert "disk tier" in cached.cache.report()["disk_problem"]
    with pytest.raises(CacheError, match="directory"):
        CacheSettings(disk_bytes=1)


def test_a_row_larger_than_the_bounds_is_refused() -> None:
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=100)
    train(plain, cached, epochs=1)
    assert "384 bytes" in cached.cache.reason


@pytest.mark.parametrize("name", ["resnet", "bert", "shared block", "rope"])
@pytest.mark.parametrize("ram", [1 << 20, 4000])
def test_a_deeper_cut_is_reached_from_the_old_rows(name: str, ram: int, tmp_path: Path) -> None:
    case = CASES[name]
    shallow = {"shared block": ("first",)}.get(name, case.frozen[:-1])
    plain, cached = both(case, *shallow, ram_bytes=ram, disk_bytes=1 << 20, directory=tmp_path)
    train(plain, cached, epochs=2)
    before = cached.cache.cut
    for run in (plain, cached):
        run.freeze(*case.frozen)
    train(plain, cached, epochs=3, seed=6)
    report = cached.cache.report()
    assert report["cut"] == case.cut
    assert cached.cache.cut.exit > before.exit
    assert report["advances"] > 0
    if ram > 4000:
        assert report["advances"] == 24
        assert report["rows_ram"] == 24


def test_a_change_behind_the_cut_keeps_the_rows() -> None:
    plain, cached = both(CASES["transformer"], "embed", "cls_token", "blocks.0")
    train(plain, cached, epochs=1)
    for run in (plain, cached):
        run.freeze("embed", "cls_token", "blocks.0", "head")
    train(plain, cached, epochs=1)
    assert cached.cache.report()["hits"] == 24


def test_thawing_below_the_cut_drops_the_rows_and_freezing_again_starts_anew() -> None:
    plain, cached = both(BERT, *BERT.frozen)
    train(plain, cached, epochs=2)
    for run in (plain, cached):
        run.freeze("bert.embeddings")
    assert cached.cache.report()["rows_ram"] == 0
    train(plain, cached, epochs=2)
    assert cached.cache.report()["cut"] == "bert.embeddings"
    for run in (plain, cached):
        run.freeze(*BERT.frozen)
    train(plain, cached, epochs=2)
    for run in (plain, cached):
        run.freeze()
    assert cached.cache.reason == "nothing is frozen"
    train(plain, cached, epochs=1)


def test_prefetched_batches_have_the_same_bits(tmp_path: Path) -> None:
    plain, cached = both(BERT, *BERT.frozen, ram_bytes=10 * ROW, disk_bytes=20 * ROW, directory=tmp_path)
    order = list(batches(24, 8, 4))
    for now, ahead in zip(order, [*order[1:], order[0]], strict=True):
        cached.cache.prefetch(ahead)
        assert torch.equal(plain.step(now), cached.step(now))
    same_weights(plain.model, cached.model)
    cached.cache.close()
    assert not any(t.name.startswith("forward-cache") for t in threading.enumerate())


def test_a_model_that_raises_inside_leaves_nothing_behind() -> None:
    plain, cached = both(BERT, *BERT.frozen)
    train(plain, cached, epochs=1)
    handle = cached.model.classifier.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cached.step(torch.arange(8))
    handle.remove()
    assert all("forward" not in m.__dict__ for m in cached.model.modules())
    train(plain, cached, epochs=1, seed=7)


def test_ids_must_fit_the_batch() -> None:
    run = Run(BERT, CacheSettings())
    run.freeze(*BERT.frozen)
    args, kwargs = BERT.call({k: v[:8] for k, v in run.data.items()})
    for ids, draws, text in [
        (torch.arange(7), None, "7 ids were passed for a batch whose inputs have 8 rows"),
        (torch.arange(8.0), None, "int64"),
        (torch.arange(8), torch.arange(9), "9 draws"),
        (None, torch.arange(8), "without sample ids"),
    ]:
        with pytest.raises(CacheError, match=text), run.cache.around(ids, draws, args, kwargs):
            pass
