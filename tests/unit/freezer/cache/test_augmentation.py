"""Declared draws are right, undeclared augmentation is found, bf16 is a pure function of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freezer.cache import CacheSettings, draw_generator, draw_of
from freezer.cache.fingerprint import fingerprints
from tests.unit.freezer.cache.models import CASES
from tests.unit.freezer.cache.runs import Run, batches, both, same_weights

VGG = CASES["vgg"]


def _augmented(ids: Tensor, draws: Tensor, data: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = []
    for sample, draw, image in zip(ids.tolist(), draws.tolist(), data["x"], strict=True):
        flip = torch.rand((), generator=draw_generator(sample, draw, 1)) < 0.5
        rows.append(image.flip(-1) if flip else image)
    return {"x": torch.stack(rows)}


def test_declared_draws_are_bit_identical() -> None:
    plain, cached = both(VGG, *VGG.frozen)
    for step, ids in enumerate(batches(24, 8, 6)):
        draws = torch.tensor([draw_of(i, step // 3, 2, 9) for i in ids.tolist()])

        def change(data: dict[str, Tensor], ids: Tensor = ids, draws: Tensor = draws) -> dict[str, Tensor]:
            return _augmented(ids, draws, data)

        assert torch.equal(plain.step(ids, draws, change), cached.step(ids, draws, change))
    same_weights(plain.model, cached.model)
    report = cached.cache.report()
    assert report["state"] == "on"
    assert 24 < report["misses"] <= 48
    assert report["hits"] >= 90


def test_undeclared_augmentation_is_found_before_it_does_harm() -> None:
    plain, cached = both(VGG, *VGG.frozen)
    for step, ids in enumerate(batches(24, 8, 3)):

        def change(data: dict[str, Tensor], step: int = step) -> dict[str, Tensor]:
            return {"x": data["x"].flip(-1) if step >= 4 else data["x"]}

        assert torch.equal(plain.step(ids, change=change), cached.step(ids, change=change))
    same_weights(plain.model, cached.model)
    assert cached.cache.state == "refused"
    assert "sample" in cached.cache.reason
    assert "draws=" in cached.cache.reason
    cached.freeze(*VGG.frozen)
    assert cached.cache.state == "refused"  # for good


def test_draws_are_pure_and_cover_the_set() -> None:
    draws = [draw_of(s, e, 4, 7) for s in range(50) for e in range(10)]
    assert draws == [draw_of(s, e, 4, 7) for s in range(50) for e in range(10)]
    assert set(draws) == {0, 1, 2, 3}
    a, b = (torch.rand(3, generator=draw_generator(5, d, 7)) for d in (0, 0))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(3, generator=draw_generator(5, 1, 7)))
    with pytest.raises(ValueError, match="at least 1"):
        draw_of(1, 1, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.float64])
def test_a_fingerprint_notices_every_word_and_only_in_its_row(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5).mul(9)
    x = x > 0 if dtype == torch.bool else x.to(dtype)
    before = fingerprints(x, 4)
    assert len(set(before)) == 4
    assert fingerprints(x.flip(0), 4) == before[::-1]
    for place in range(15):
        y = x.clone()
        y[2].view(-1)[place] = ~y[2].view(-1)[place] if dtype == torch.bool else y[2].view(-1)[place] + 1
        after = fingerprints(y, 4)
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    assert fingerprints((x, torch.arange(3)), 4) != fingerprints((x, torch.arange(1, 4)), 4)


def _bf16(name: str) -> Run:
    run = Run(CASES[name], CacheSettings(dtype="bf16"))
    run.freeze(*CASES[name].frozen)
    return run


@pytest.mark.parametrize("name", ["bert", "resnet", "rope"])
def test_bf16_gives_the_same_bits_cold_and_warm(name: str) -> None:
    warm, cold, unnamed = _bf16(name), _bf16(name), _bf16(name)
    exact = Run(CASES[name])
    exact.freeze(*CASES[name].frozen)
    for ids in batches(24, 8, 3):
        cold.renew()
        losses = [run.step(ids) for run in (warm, cold, exact)]
        assert torch.equal(losses[0], losses[1])
        unnamed.cache._given_up = True  # nothing is cached, as after undeclared augmentation
        assert torch.equal(unnamed.step(ids), losses[0])
    same_weights(warm.model, cold.model)
    same_weights(warm.model, unnamed.model)
    assert not torch.equal(losses[0], losses[2])
    report = warm.cache.report()
    assert report["hits"] == 48
    assert report["changes_numbers"]
    assert "bfloat16" in report["note"]


def test_bf16_rows_take_half() -> None:
    warm = _bf16("bert")
    for ids in batches(24, 8, 1):
        warm.step(ids)
    assert warm.cache.report()["bytes_ram"] == 24 * 6 * 16 * 2


def test_bf16_gives_the_same_bits_cold_and_warm_at_a_deeper_cut() -> None:
    warm, cold = _bf16("bert"), _bf16("bert")
    frozen = CASES["bert"].frozen
    for run in (warm, cold):
        run.freeze(*frozen[:-1])
    for ids in batches(24, 8, 2):
        assert torch.equal(warm.step(ids), cold.step(ids))
    for run in (warm, cold):
        run.freeze(*frozen)
    for ids in batches(24, 8, 2):
        cold.renew()
        assert torch.equal(warm.step(ids), cold.step(ids))
    same_weights(warm.model, cold.model)
    assert warm.cache.report()["advances"] == 0
