"""What a reader gives, before texts are tokenised and subsets drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.training.batch import Inputs, Kind
from workers.training.errors import DatasetInvalid


@dataclass(frozen=True, slots=True)
class RawSplit:
    """Texts, or the tensors of :class:`~workers.training.datasets.bundle.Split`, with int64 labels ``(n,)``."""

    samples: Inputs | list[str]
    labels: Tensor

    def take(self, indices: Tensor) -> RawSplit:
        labels = self.labels.index_select(0, indices)
        if isinstance(self.samples, list):
            return RawSplit([self.samples[index] for index in indices.tolist()], labels)
        if isinstance(self.samples, dict):
            return RawSplit({name: value.index_select(0, indices) for name, value in self.samples.items()}, labels)
        return RawSplit(self.samples.index_select(0, indices), labels)


@dataclass(frozen=True, slots=True)
class Raw:
    """A data set as read. Where ``test`` is missing, ``test_ratio`` of every class becomes the test split.

    ``normalise`` asks for inputs of zero mean and unit variance over the training split.
    """

    kind: Kind
    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit | None
    test_ratio: float = 0.2
    normalise: bool = False


def only_classes(part: RawSplit, classes: Sequence[int]) -> RawSplit:
    """The samples of these classes, in the order they had; ``classes[i]`` becomes class ``i``."""
    new = torch.full((max([int(part.labels.max()), *classes]) + 1,), -1, dtype=torch.int64)
    new[torch.tensor(classes)] = torch.arange(len(classes))
    numbers = new[part.labels]
    kept = torch.nonzero(numbers >= 0).squeeze(1)
    return RawSplit(part.take(kept).samples, numbers[kept])


def encode_labels(labels: Sequence[Any], names: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """(int64 class indices, class names); the names are sorted, by value where all are whole numbers.

    Raises:
        DatasetInvalid: a label that is not in ``names``, or fewer than two classes.
    """
    texts = [str(label) for label in labels]
    if names is None:
        found = set(texts)
        whole = all(text.lstrip("-").isdigit() for text in found)
        names = sorted(found, key=int) if whole else sorted(found)
    if len(names) < 2:
        raise DatasetInvalid(f"classification needs at least two classes, but the data has {len(names)}")
    index = {name: position for position, name in enumerate(names)}
    try:
        return torch.tensor([index[text] for text in texts], dtype=torch.int64), tuple(names)
    except KeyError as error:
        raise DatasetInvalid(f"the test split has a class {error} that the training split lacks") from error
