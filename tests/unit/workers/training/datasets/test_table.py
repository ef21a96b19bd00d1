"""CSV and JSON lines of the user."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.errors import ConfigInvalid, DatasetInvalid


def write(settings: Settings, name: str, text: str) -> None:
    assert settings.data_dir is not None
    (settings.data_dir / name).write_text(text, encoding="utf-8")


FEATURES = "a,label,b\n" + "".join(f"{i},{'up' if i % 2 else 'down'},{-i}\n" for i in range(10))


def test_numbers_are_standardised_and_split_by_class(local: Settings) -> None:
    write(local, "t.csv", FEATURES)
    bundle = load(DataSpec(name="csv", path="t.csv", options={"kind": "features"}), local)
    assert (bundle.kind, bundle.input_shape, bundle.class_names) == ("features", (2,), ("down", "up"))
    assert (len(bundle.train), len(bundle.test)) == (8, 2)
    assert sorted(bundle.test.labels.tolist()) == [0, 1]
    inputs = bundle.train.batch(torch.arange(8)).inputs
    assert isinstance(inputs, torch.Tensor)
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.equal(inputs[:, 0], -inputs[:, 1])


def test_a_test_file_is_used_as_it_is(local: Settings) -> None:
    write(local, "t.csv", FEATURES)
    write(local, "test.csv", "a,label,b\n1,up,2\n")
    options = {"kind": "features", "test_path": "test.csv"}
    bundle = load(DataSpec(name="csv", path="t.csv", options=options), local)
    assert (len(bundle.train), len(bundle.test)) == (10, 1)
    assert bundle.test.labels.tolist() == [1]
    write(local, "test.csv", "a,label,b\n1,sideways,2\n")
    with pytest.raises(DatasetInvalid, match="class 'sideways'"):
        load(DataSpec(name="csv", path="t.csv", options=options), local)


def test_texts_are_tokenised(local: Settings, need: Callable[[str], Path]) -> None:
    need("minilm-l6")
    rows = [{"body": f"text number {i}", "class": i % 2} for i in range(10)]
    write(local, "t.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    options = {"text_column": "body", "label_column": "class", "max_length": 8}
    bundle = load(DataSpec(name="jsonl", path="t.jsonl", options=options), local, ModelSpec(name="minilm-l6"))
    assert (bundle.kind, bundle.input_shape, bundle.class_names) == ("text", (8,), ("0", "1"))
    with pytest.raises(ConfigInvalid, match="cannot read text"):
        load(DataSpec(name="jsonl", path="t.jsonl", options=options), local, ModelSpec(name="vit-small"))
    with pytest.raises(ConfigInvalid, match="needs a model"):
        load(DataSpec(name="jsonl", path="t.jsonl", options=options), local)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("csv", "a,label\n1,x\n2,x\n", "at least two classes"),
        ("csv", "a,klass\n1,x\n", "no 'label'; its columns: a, klass"),
        ("csv", "a,label\nhigh,x\n1,y\n", "numbers in every column"),
        ("csv", "a,label\nnan,x\n1,y\n", "finite"),
        ("csv", "label\nx\ny\n", "no column beside"),
        ("csv", "", "holds no rows"),
        ("jsonl", "{\n", "cannot read"),
        ("jsonl", "[1]\n", "must be an object"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_so(name: str, text: str, says: str, local: Settings) -> None:
    write(local, "t", text)
    with pytest.raises(DatasetInvalid, match=says):
        load(DataSpec(name=name, path="t", options={"kind": "features"}), local)


def test_other_bytes_than_utf8_are_told_so(local: Settings) -> None:
    assert local.data_dir is not None
    (local.data_dir / "t").write_bytes(b"a,label\n\xff\xfe,x\n")
    with pytest.raises(DatasetInvalid, match="cannot read t as csv"):
        load(DataSpec(name="csv", path="t", options={"kind": "features"}), local)


def test_a_file_out_of_the_data_directory_is_refused(local: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text(FEATURES)
    with pytest.raises(ConfigInvalid, match="leads out"):
        load(DataSpec(name="csv", path="../secret.csv", options={"kind": "features"}), local)
    write(local, "t.csv", FEATURES)
    options = {"kind": "features", "test_path": "../secret.csv"}
    with pytest.raises(ConfigInvalid, match=r"test_path.*leads out"):
        load(DataSpec(name="csv", path="t.csv", options=options), local)
    with pytest.raises(DatasetInvalid, match=r"no 'none\.csv'"):
        load(DataSpec(name="csv", path="none.csv"), local)
    with pytest.raises(ConfigInvalid, match="SMARTFRZ_DATA_DIR"):
        load(DataSpec(name="csv", path="t.csv"), local.model_copy(update={"data_dir": None}))
