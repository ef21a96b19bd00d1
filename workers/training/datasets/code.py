"""Data from the user's own function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.jobs.options import CodeDataOptions
from workers.jobs.spec import DataSpec
from workers.settings import Settings
from workers.training.batch import Inputs, Kind
from workers.training.datasets.raw import Raw, RawSplit
from workers.training.errors import CodeError, DatasetInvalid
from workers.training.usercode import call, load_function


def code(spec: DataSpec, options: CodeDataOptions, settings: Settings) -> Raw:
    """``function(**options)`` returns ``(train, test)``, each ``(inputs, labels)`` of tensors."""
    entry = spec.entry or ""
    result = call(load_function(entry, settings.code_dir), entry, options.model_dump())
    if not isinstance(result, tuple) or len(result) != 2:
        raise CodeError(f"{entry} must return (train, test), each (inputs, labels)")
    train, test = (_checked(part, entry) for part in result)
    count = int(max(train.labels.max(), test.labels.max())) + 1
    if count < 2:
        raise DatasetInvalid(f"{entry} gave labels of one class; classification needs at least two")
    return Raw(_kind_of(train.samples, entry), tuple(str(index) for index in range(count)), train, test)


def _checked(part: Any, entry: str) -> RawSplit:
    if not isinstance(part, tuple) or len(part) != 2:
        raise CodeError(f"{entry} must return (train, test), each (inputs, labels)")
    inputs, labels = part
    tensors = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    if not tensors or not all(isinstance(value, Tensor) and value.dim() >= 1 for value in [*tensors, labels]):
        raise CodeError(f"{entry} must return tensors: inputs a tensor or a dict of tensors, labels a tensor")
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) == 0 or int(labels.min()) < 0:
        raise CodeError(f"{entry}: labels must be a non-empty tensor of class numbers from 0, of one dimension")
    if any(len(value) != len(labels) for value in tensors):
        raise CodeError(f"{entry}: inputs and labels differ in length")
    return RawSplit(inputs, labels.to(torch.int64))


def _kind_of(samples: Inputs | list[str], entry: str) -> Kind:
    if isinstance(samples, dict) and set(samples) == {"input_ids", "attention_mask"}:
        return "text"
    if isinstance(samples, Tensor) and samples.dim() in (2, 4):
        return "features" if samples.dim() == 2 else "image"
    raise CodeError(
        f"{entry}: inputs must be (n, channels, height, width), (n, features), or a dict of input_ids and "
        "attention_mask"
    )
