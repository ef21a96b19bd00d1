"""Which samples end up in which split, on user data whose samples carry their own number."""

from pathlib import Path
from typing import Any

import pytest
import torch

from workers.jobs.catalog import DATASETS
from workers.jobs.options import DATA_OPTIONS
from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import NAMES, DataBundle, Split, load
from workers.training.datasets.raw import Raw, RawSplit
from workers.training.datasets.registry import assemble
from workers.training.errors import CodeError, ConfigInvalid, DatasetInvalid

NUMBERED = """
import torch
def data(train=60, test=30):
    def part(count, first):
        numbers = torch.arange(first, first + count, dtype=torch.float32)
        return numbers.view(-1, 1), torch.arange(count) * 3 // count  # sorted by class
    return part(train, 0), part(test, 1000)
"""


@pytest.fixture
def numbered(local: Settings) -> Settings:
    assert local.code_dir is not None
    (local.code_dir / "numbered.py").write_text(NUMBERED)
    return local


def spec(**more: Any) -> DataSpec:
    return DataSpec(name="code", entry="numbered.py:data", **more)


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    inputs = split.batch(torch.arange(len(split))).inputs
    assert isinstance(inputs, torch.Tensor)
    return [int(value) for value in inputs.flatten().tolist()]


def classes(split: Split | None) -> list[int]:
    assert split is not None
    return split.labels.bincount(minlength=3).tolist()


def test_the_catalog_names_exactly_what_can_be_read() -> None:
    assert set(DATASETS) == set(NAMES)


def test_everything_is_used_when_nothing_is_asked(numbered: Settings) -> None:
    bundle = load(spec(), numbered)
    assert numbers(bundle.train) == list(range(60))
    assert numbers(bundle.test) == list(range(1000, 1030))
    assert bundle.validation is None
    assert bundle.class_names == ("0", "1", "2")


def test_the_subset_is_balanced_and_validation_is_held_out_of_it(numbered: Settings) -> None:
    bundle = load(spec(train_size=30, validation_ratio=0.2, test_size=9), numbered)
    assert classes(bundle.train) == [8, 8, 8]
    assert classes(bundle.validation) == [2, 2, 2]
    assert not set(numbers(bundle.train)) & set(numbers(bundle.validation))
    assert set(numbers(bundle.train) + numbers(bundle.validation)) <= set(range(60))
    assert len(bundle.test) == 9
    assert set(numbers(bundle.test)) <= set(range(1000, 1030))
    # The first samples of data that is sorted by class would all be of one class.
    assert min(classes(bundle.test)) > 0


def test_a_score_of_held_out_training_data_leaves_the_test_split_alone(numbered: Settings) -> None:
    bundle = load(spec(test_from="train", train_size=30, validation_ratio=0.2), numbered)
    assert classes(bundle.test) == [4, 4, 4], "a fifth of all training samples, whatever is trained on"
    assert set(numbers(bundle.test)) < set(range(60))
    rest = numbers(bundle.train) + numbers(bundle.validation)
    assert not set(numbers(bundle.test)) & set(rest)
    assert len(rest) == 30
    other = load(spec(test_from="train", train_size=20), numbered)
    assert numbers(other.test) == numbers(bundle.test), "the same for every recipe that is compared"


def test_held_out_data_of_data_without_a_test_split_is_neither_of_its_samples(local: Settings) -> None:
    def of(test_from: str) -> DataBundle:
        labels = torch.arange(60) % 3
        raw = Raw("features", ("a", "b", "c"), RawSplit(torch.arange(60.0).view(-1, 1), labels), None)
        data = DataSpec.model_validate({"name": "csv", "test_from": test_from})
        return assemble(raw, data, DATA_OPTIONS["csv"].model_validate({}), pytest.fail)

    reported, chosen = of("test"), of("train")
    assert set(numbers(chosen.train) + numbers(chosen.test)) == set(numbers(reported.train))
    assert len(chosen.test) == 9


def test_the_same_spec_gives_the_same_samples_whatever_the_process_drew_before(numbered: Settings) -> None:
    def draw() -> tuple[list[int], list[int], list[int]]:
        bundle = load(spec(train_size=20, validation_ratio=0.3, test_size=5), numbered)
        return numbers(bundle.train), numbers(bundle.validation), numbers(bundle.test)

    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    assert draw() == first


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"train_size": 61}, "train_size is 61, but there are only 60"),
        ({"test_size": 31}, "test_size is 31, but there are only 30"),
        ({"test_from": "train", "train_size": 49}, "train_size is 49, but there are only 48"),
        ({"train_size": 3, "validation_ratio": 0.5}, "leaves a split without samples"),
    ],
)
def test_sizes_that_cannot_work_are_config_errors(more: dict[str, Any], says: str, numbered: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        load(spec(**more), numbered)


def test_an_unknown_name_or_option_is_a_config_error(local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="unknown data set"):
        load(DataSpec(name="nope"), local)
    with pytest.raises(ConfigInvalid, match=r"data\.options\.size"):
        load(DataSpec(name="mnist5k", options={"size": 3}), local)


def test_a_missing_package_names_the_command(local: Settings, tmp_path: Path) -> None:
    bare = local.model_copy(update={"packages_dir": tmp_path / "none"})
    for name in ("mnist5k", "fashion-mnist", "20newsgroups", "rotten-tomatoes", "bbc-news"):
        with pytest.raises(DatasetInvalid, match=f"smartfrz data fetch {name}") as caught:
            load(DataSpec(name=name), bare, ModelSpec(name="minilm-l6"))
        assert caught.value.reason == "dataset_invalid"


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ("return 1", CodeError, "must return"),
        ("return (1, 2)", CodeError, "each"),
        ("return ((1, y), (x, y))", CodeError, "must return tensors"),
        ("return ((x, y.float()), (x, y))", CodeError, "class numbers"),
        ("return ((x, y - 1), (x, y))", CodeError, "class numbers"),
        ("return ((x[:2], y), (x, y))", CodeError, "differ in length"),
        ("return ((x.view(-1), y), (x, y))", CodeError, "inputs must be"),
        ("return ((x, y * 0), (x, y * 0))", DatasetInvalid, "at least two"),
        ("raise ValueError('mine')", CodeError, "raised ValueError: mine"),
    ],
)
def test_a_function_that_returns_something_else_is_told_so(
    body: str, error: type[Exception], says: str, local: Settings
) -> None:
    assert local.code_dir is not None
    code = f"import torch\ndef data():\n    x, y = torch.ones(4, 1), torch.arange(4) % 2\n    {body}\n"
    (local.code_dir / "wrong.py").write_text(code)
    with pytest.raises(error, match=says):
        load(DataSpec(name="code", entry="wrong.py:data"), local)


def test_named_tensors_of_a_function_are_text(local: Settings) -> None:
    assert local.code_dir is not None
    (local.code_dir / "tokens.py").write_text(
        "import torch\ndef data():\n"
        "    x = {'input_ids': torch.ones(4, 6, dtype=torch.int64), 'attention_mask': torch.ones(4, 6)}\n"
        "    return (x, torch.arange(4) % 2), (x, torch.arange(4) % 2)\n"
    )
    bundle: DataBundle = load(DataSpec(name="code", entry="tokens.py:data"), local)
    assert (bundle.kind, bundle.input_shape) == ("text", (6,))


def test_a_test_split_with_classes_never_trained_on_is_refused() -> None:
    raw = Raw(
        "image",
        ("a", "b", "c"),
        RawSplit(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])),
        RawSplit(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])),
    )
    with pytest.raises(DatasetInvalid, match=r"1 classes without a training sample \('c'\)"):
        assemble(raw, DataSpec(name="mnist5k"), DATA_OPTIONS["mnist5k"](), lambda: pytest.fail("no text here"))
