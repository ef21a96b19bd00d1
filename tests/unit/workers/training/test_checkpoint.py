from __future__ import annotations

import dataclasses
import errno
import logging
import random
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from tests.support.ballast import fill
from tests.support.small_disk import small_disk
from workers.training.checkpoint import Checkpoint, load, newest, rng_state, save, set_rng_state, weights

CPU = torch.device("cpu")


def made(step: int) -> Checkpoint:
    training = {
        "optimizer": {"state": {0: {"exp_avg": torch.arange(3.0)}}},
        "freezer": {"ring": b"\x00\xff", "p": [0.5]},
    }
    return Checkpoint(
        step=step, model={"w": torch.full((2, 2), float(step))}, training=training, rng=[rng_state(CPU), rng_state(CPU)]
    )


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    state = load(save(tmp_path, made(12)))
    assert (state.step, state.world) == (12, 2)
    assert torch.equal(state.model["w"], torch.full((2, 2), 12.0))
    assert torch.equal(state.training["optimizer"]["state"][0]["exp_avg"], torch.arange(3.0))
    assert state.training["freezer"] == {"ring": b"\x00\xff", "p": [0.5]}


def test_the_best_weights_are_part_of_a_checkpoint_and_hashed_like_the_rest(tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.write_bytes(b"weights")
    path = save(tmp_path / "checkpoints", dataclasses.replace(made(12), best=best))
    best.unlink()
    kept = load(path).best
    assert kept is not None
    assert kept.read_bytes() == b"weights"
    damage(kept)
    with pytest.raises(ValueError, match="best"):
        load(path)
    assert load(save(tmp_path / "without", made(12))).best is None


def test_random_state_survives_the_file(tmp_path: Path) -> None:
    state = load(save(tmp_path, made(1)))
    expected = torch.rand(4), random.random(), numpy.random.randn(3).tolist()
    torch.rand(9), random.random(), numpy.random.randn(4)
    set_rng_state(state.rng[1], CPU)
    assert torch.equal(torch.rand(4), expected[0])
    assert random.random() == expected[1]
    assert numpy.random.randn(3).tolist() == expected[2]


def test_only_the_newest_two_stay_and_nothing_half_written(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        save(tmp_path, made(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]


def test_two_stay_of_all_attempts_those_of_the_newest_first(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("1", "2", "3")]

    def kept() -> list[str]:
        return [f"{path.parent.name}:{int(path.name[5:])}" for path in sorted(tmp_path.glob("*/step-*"))]

    for step in (3, 20):
        save(folders[0], made(step))
    assert kept() == ["1:3", "1:20"]
    save(folders[1], made(21), earlier=folders[:1])
    assert kept() == ["1:20", "2:21"], "one to fall back on, should the new one be damaged"
    save(folders[2], made(5), earlier=folders[:2])
    assert kept() == ["2:21", "3:5"]
    save(folders[2], made(9), earlier=folders[:2])
    assert kept() == ["3:5", "3:9"], "what a superseded attempt reached does not count"
    save(folders[2], made(12), earlier=folders[:2])
    assert kept() == ["3:9", "3:12"]


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "rank1.pt"])
def test_a_flipped_bit_anywhere_is_found_and_the_older_one_taken(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path / "a", made(3)), save(tmp_path / "b", made(5))
    assert newest([tmp_path / "a", tmp_path / "b"]) == newer
    damage(newer / name)
    with caplog.at_level(logging.WARNING):
        assert newest([tmp_path / "a", tmp_path / "b", tmp_path / "none"]) == older
    assert name in caplog.text


def test_without_a_manifest_it_is_no_checkpoint(tmp_path: Path) -> None:
    (save(tmp_path, made(3)) / "manifest.json").unlink()
    assert newest([tmp_path]) is None


def test_a_failed_write_leaves_the_earlier_one(tmp_path: Path) -> None:
    good = save(tmp_path, made(3))
    bad = Checkpoint(step=4, model={"w": torch.zeros(1)}, training={"f": lambda: None}, rng=[])
    with pytest.raises(AttributeError):
        save(tmp_path, bad)
    assert list(tmp_path.iterdir()) == [good]


@pytest.mark.parametrize("room", [0, 12, 1000])
def test_a_full_disk_leaves_the_earlier_one_and_nothing_half_written(tmp_path: Path, room: int) -> None:
    """The disk fills up with the first file, with one of the next, or not at all."""
    with small_disk(tmp_path / "disk") as disk:
        folder, ballast = disk / "checkpoints", disk / "ballast"
        good = save(folder, made(3))
        fill(ballast)
        ballast.write_bytes(bytes(max(0, ballast.stat().st_size - room * 1024)))
        if room == 1000:
            save(folder, made(4))
            return
        with pytest.raises(OSError, match="No space left on device") as caught:
            save(folder, made(4))
        assert caught.value.errno == errno.ENOSPC
        assert list(folder.iterdir()) == [good]
        assert newest([folder]) == good


def test_saving_copies_no_weights_but_tied_ones() -> None:
    net = nn.Linear(2, 2)
    assert weights(net)["weight"].data_ptr() == net.weight.data_ptr()


def test_tied_weights_are_written_twice() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight  # type: ignore[union-attr,assignment]
    state = weights(net)
    assert state["a.weight"].data_ptr() != state["b.weight"].data_ptr()
    assert torch.equal(state["a.weight"], state["b.weight"])
