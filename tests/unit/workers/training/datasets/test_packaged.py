"""The data packages as they are: counts, classes and the traps of each file."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.datasets.packaged import _idx, _tab, bbc_news, newsgroups, rotten_tomatoes
from workers.training.errors import DatasetInvalid

Need = Callable[[str], Path]


def test_mnist5k_is_split_four_to_one_in_every_class(need: Need, local: Settings) -> None:
    need("mnist5k")
    bundle = load(DataSpec(name="mnist5k"), local)
    assert bundle.train.labels.bincount().tolist() == [400] * 10
    assert bundle.test.labels.bincount().tolist() == [100] * 10
    assert bundle.input_shape == (1, 28, 28)
    images = bundle.train.batch(torch.arange(4000)).inputs
    assert isinstance(images, torch.Tensor)
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-3
    # A picture is not torn: the corners of digits are empty, the middle is not.
    assert float(images[:, 0, 14, 14].mean()) > float(images[:, 0, 0, 0].mean()) + 0.5


def test_20newsgroups_has_every_post(need: Need, local: Settings) -> None:
    need("20newsgroups")
    raw = newsgroups(local)
    assert raw.test is not None
    assert (len(raw.train.labels), len(raw.test.labels), len(raw.class_names)) == (11_293, 7_528, 20)
    assert isinstance(raw.train.samples, list)
    assert raw.class_names[int(raw.train.labels[0])] == "alt.atheism"
    assert raw.train.samples[0].startswith("alt atheism faq")


def test_20newsgroups_subset_is_tokenised(need: Need, local: Settings) -> None:
    need("20newsgroups"), need("minilm-l6")
    spec = DataSpec(name="20newsgroups", train_size=40, test_size=30, options={"max_length": 16})
    bundle = load(spec, local, ModelSpec(name="minilm-l6"))
    assert bundle.train.labels.bincount().tolist() == [2] * 20
    inputs = bundle.train.batch(torch.arange(40)).inputs
    assert isinstance(inputs, dict)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (40, 16)
    assert set(inputs["input_ids"][:, 0].tolist()) == {101}  # [CLS]


def test_rotten_tomatoes_repeats_no_text(need: Need, local: Settings) -> None:
    need("rotten-tomatoes")
    raw = rotten_tomatoes(local)
    assert isinstance(raw.train.samples, list)
    assert len(set(raw.train.samples)) == len(raw.train.samples) == 8_530
    assert raw.train.labels.bincount().tolist() == [4_265, 4_265]


def test_bbc_news_repeats_no_text_and_has_a_fixed_test_split(need: Need, local: Settings) -> None:
    need("bbc-news")
    raw = bbc_news(local)
    assert raw.class_names == ("business", "entertainment", "politics", "sports", "tech")
    assert isinstance(raw.train.samples, list)
    assert len(set(raw.train.samples)) == len(raw.train.samples) == 2_125
    assert raw.train.labels.bincount().tolist() == [503, 369, 403, 503, 347]
    assert raw.train.samples[0].startswith("Ad sales boost Time Warner profit Quarterly profits")
    need("minilm-l6")
    spec = DataSpec(name="bbc-news", options={"max_length": 8})
    bundle = load(spec, local, ModelSpec(name="minilm-l6"))
    assert (len(bundle.train), len(bundle.test)) == (1_699, 426)


def test_fashion_mnist_is_whole(need: Need, local: Settings) -> None:
    need("fashion-mnist")
    bundle = load(DataSpec(name="fashion-mnist"), local)
    assert bundle.train.labels.bincount().tolist() == [6_000] * 10
    assert bundle.test.labels.bincount().tolist() == [1_000] * 10


def test_a_tab_file_is_read_past_its_header_and_empty_rows(tmp_path: Path) -> None:
    long = "word " * 50_000  # more than the csv module's default limit
    (tmp_path / "x.tab").write_text(f"Category\tText\nd\tstring\nclass\t\n\na\t{long}\n\nb\ttwo\n")
    labels, texts = _tab(tmp_path / "x.tab")
    assert labels == ["a", "b"]
    assert texts == [long, "two"]


def test_an_idx_file_is_read_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(range(6))))
    assert _idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(gzip.compress(b"\0\0\x0d\x01" + (1).to_bytes(4, "big") + bytes(4)))
    with pytest.raises(DatasetInvalid, match="no IDX file"):
        _idx(path)
