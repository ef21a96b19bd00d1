"""Image folders of the user."""

from pathlib import Path

import pytest
import torch

from workers.jobs.spec import DataSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.errors import DatasetInvalid

Image = pytest.importorskip("PIL.Image")


def picture(path: Path, colour: tuple[int, int, int], side: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)


@pytest.fixture
def root(local: Settings) -> Path:
    assert local.data_dir is not None
    for index in range(5):
        picture(local.data_dir / "p" / "red" / f"{index}.png", (250, index, 0))
        picture(local.data_dir / "p" / "blue" / f"{index}.jpg", (0, index, 250), side=40)
    (local.data_dir / "p" / "red" / "notes.txt").write_text("no picture")
    return local.data_dir / "p"


def test_subfolders_are_classes_and_a_share_is_held_out(root: Path, local: Settings) -> None:
    bundle = load(DataSpec(name="folder", path="p", options={"size": 8}), local)
    assert (bundle.class_names, bundle.input_shape) == (("blue", "red"), (3, 8, 8))
    assert (len(bundle.train), len(bundle.test)) == (8, 2)
    assert isinstance(bundle.train.inputs, torch.Tensor)
    assert bundle.train.inputs.dtype == torch.uint8
    red = bundle.train.inputs[bundle.train.labels == 1].to(torch.float32).mean(dim=(0, 2, 3))
    assert red[0] == 250
    assert red[2] == 0


def test_train_and_test_folders_are_used_as_they_are(local: Settings) -> None:
    assert local.data_dir is not None
    for index in range(3):
        picture(local.data_dir / "q" / "train" / "a" / f"{index}.png", (9, 9, 9))
        picture(local.data_dir / "q" / "train" / "b" / f"{index}.png", (99, 99, 99))
    picture(local.data_dir / "q" / "test" / "b" / "x.png", (99, 99, 99))
    bundle = load(DataSpec(name="folder", path="q", options={"size": 8, "channels": 1}), local)
    assert (len(bundle.train), len(bundle.test), bundle.input_shape) == (6, 1, (1, 8, 8))
    assert bundle.test.labels.tolist() == [1]


def test_a_file_that_is_no_image_is_named(root: Path, local: Settings) -> None:
    (root / "red" / "9.png").write_bytes(b"no picture")
    with pytest.raises(DatasetInvalid, match=r"cannot read image 9\.png"):
        load(DataSpec(name="folder", path="p"), local)


def test_a_huge_image_is_refused_before_it_is_decoded(root: Path, local: Settings) -> None:
    with pytest.raises(DatasetInvalid, match="40x40 pixels, more than max_pixels 500"):
        load(DataSpec(name="folder", path="p", options={"max_pixels": 500}), local)


def test_a_link_out_of_the_folder_is_refused(root: Path, local: Settings, tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", (1, 2, 3))
    (root / "red" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DatasetInvalid, match="leads out"):
        load(DataSpec(name="folder", path="p"), local)


def test_a_folder_without_classes_is_told_so(local: Settings) -> None:
    assert local.data_dir is not None
    picture(local.data_dir / "flat" / "x.png", (1, 2, 3))
    with pytest.raises(DatasetInvalid, match="no images in class folders"):
        load(DataSpec(name="folder", path="flat"), local)
    with pytest.raises(DatasetInvalid, match="is no folder"):
        load(DataSpec(name="folder", path="flat/x.png"), local)
