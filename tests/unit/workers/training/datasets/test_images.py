"""Options of the packaged image sets: some of the classes, another size, grey as colour."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.jobs.options import ImageOptions
from workers.jobs.spec import DataSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.datasets import DataBundle, Split, load
from workers.training.datasets.images import resized, with_channels
from workers.training.datasets.raw import Raw, RawSplit
from workers.training.datasets.registry import assemble
from workers.training.errors import ConfigInvalid


def no_tokenizer() -> Any:
    raise AssertionError("images need no tokenizer")


def tagged(count: int, classes: int = 10) -> RawSplit:
    """Classes in turn; every pixel of a sample is its class times 20."""
    labels = torch.arange(count) % classes
    return RawSplit((labels * 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28), labels)


def bundle(
    *, normalise: bool = False, train_size: int | None = None, test_size: int | None = None, **options: Any
) -> DataBundle:
    raw = Raw("image", tuple("abcdefghij"), tagged(100), tagged(50), normalise=normalise)
    spec = DataSpec(name="mnist5k", train_size=train_size, test_size=test_size, options=options)
    return assemble(raw, spec, ImageOptions.model_validate(options), no_tokenizer)


def pixels(split: Split) -> Tensor:
    inputs = split.batch(torch.arange(len(split))).inputs
    assert isinstance(inputs, Tensor)
    return inputs


def test_classes_are_renumbered_in_the_order_given() -> None:
    made = bundle(classes=[7, 2, 5])
    assert made.class_names == ("h", "c", "f")
    assert made.task == TaskInfo("image", 3, (1, 28, 28))
    for split, each in ((made.train, 10), (made.test, 5)):
        assert split.labels.bincount().tolist() == [each] * 3
        assert torch.equal(pixels(split)[:, 0, 0, 0], torch.tensor([140.0, 40.0, 100.0])[split.labels])


def test_sizes_are_shared_evenly_by_the_chosen_classes() -> None:
    made = bundle(classes=[9, 0, 4], train_size=12, test_size=9)
    assert made.train.labels.bincount().tolist() == [4] * 3
    assert made.test.labels.bincount().tolist() == [3] * 3
    with pytest.raises(ConfigInvalid, match="train_size is 21, but there are only 20"):
        bundle(classes=[9, 0], train_size=21)


def test_inputs_are_scaled_alike_whichever_classes_are_chosen() -> None:
    whole, some = bundle(normalise=True), bundle(normalise=True, classes=[9, 8])
    dark = pixels(whole.train)[whole.train.labels == 9][0]
    assert torch.equal(pixels(some.train)[some.train.labels == 0][0], dark)


def test_size_and_channels_shape_the_input() -> None:
    made = bundle(size=64, channels=3, train_size=20)
    assert made.input_shape == (3, 64, 64)
    found = pixels(made.train)
    assert found.shape == (20, 3, 64, 64)
    assert torch.equal(found, (made.train.labels * 20.0).view(-1, 1, 1, 1).expand(-1, 3, 64, 64))
    assert bundle(channels=1).input_shape == (1, 28, 28)


def test_a_smaller_image_is_averaged_not_sampled() -> None:
    board = (torch.arange(32).view(-1, 1) + torch.arange(32)) % 2 * 200
    small = resized(board.to(torch.uint8).expand(5, 2, -1, -1), 8)
    assert small.shape == (5, 2, 8, 8)
    assert small.dtype == torch.uint8
    assert (small.to(torch.float32) - 100).abs().max() <= 10  # without antialiasing 0 or 200 would remain


def test_more_images_than_one_piece_keep_their_order() -> None:
    images = (torch.arange(5000) % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    assert torch.equal(resized(images, 10)[:, 0, 5, 5], images[:, 0, 0, 0])


def test_colour_rests_in_the_memory_of_grey() -> None:
    grey = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    colour = with_channels(grey, 3)
    assert colour.shape == (4, 3, 8, 8)
    assert colour.untyped_storage().nbytes() == grey.untyped_storage().nbytes()
    assert with_channels(grey, 1) is grey


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": [3]}, r"data\.options\.classes: .*at least 2"),
        ({"classes": [3, 3]}, r"data\.options\.classes: .*distinct"),
        ({"classes": [3, 10]}, r"data\.options\.classes/1: .*9"),
        ({"size": 4}, r"data\.options\.size"),
        ({"channels": 2}, r"data\.options\.channels"),
    ],
)
def test_what_cannot_work_is_named(options: dict[str, Any], says: str, local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        load(DataSpec(name="mnist5k", options=options), local)


def test_mnist5k_takes_them(need: Callable[[str], Path], local: Settings) -> None:
    need("mnist5k")
    options = {"classes": [5, 6], "size": 32, "channels": 3}
    made = load(DataSpec(name="mnist5k", train_size=40, test_size=10, options=options), local)
    assert made.class_names == ("5", "6")
    assert (made.input_shape, len(made.train), made.test.labels.bincount().tolist()) == ((3, 32, 32), 40, [5, 5])
