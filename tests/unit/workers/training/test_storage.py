from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.ballast import fill
from tests.support.small_disk import small_disk
from workers.training.storage import save_object, save_tensors

MIB_OF_FLOATS = 2**18


def as_tensors(path: Path, count: int) -> None:
    save_tensors({"w": torch.ones(count)}, path)


def as_object(path: Path, count: int) -> None:
    save_object({"w": torch.ones(count), "n": [1, "two"]}, path)


WRITERS = pytest.mark.parametrize("write", [as_tensors, as_object])


@WRITERS
@pytest.mark.parametrize("count", [10, 3 * MIB_OF_FLOATS])
def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(
    tmp_path: Path, write: Callable[[Path, int], None], count: int
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if count == 10:
            fill(disk / "ballast")
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(disk / "file", count)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / "file"))


@WRITERS
def test_so_is_a_folder_that_is_not_there(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    with pytest.raises(OSError, match="No such file or directory") as caught:
        write(tmp_path / "none" / "file", 10)
    assert caught.value.errno == errno.ENOENT


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    as_tensors(tmp_path / "a", 3)
    as_object(tmp_path / "b", 3)
    assert torch.equal(load_file(tmp_path / "a")["w"], torch.ones(3))
    read = torch.load(tmp_path / "b", weights_only=True)
    assert torch.equal(read.pop("w"), torch.ones(3))
    assert read == {"n": [1, "two"]}


def test_a_mistake_of_ours_is_no_error_of_the_disk(tmp_path: Path) -> None:
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_tensors({"a": shared, "b": shared}, tmp_path / "a")
    with pytest.raises(AttributeError):
        save_object(lambda: None, tmp_path / "b")
