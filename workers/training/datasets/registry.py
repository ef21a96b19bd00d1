"""From the data section of a spec to splits in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from workers.jobs.options import DATA_OPTIONS, ImageOptions
from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import code, folder, packaged, table
from workers.training.datasets.bundle import DataBundle, Scale, Split
from workers.training.datasets.images import resized, with_channels
from workers.training.datasets.raw import Raw, RawSplit, only_classes
from workers.training.datasets.select import balanced, permuted, stratified
from workers.training.datasets.tokens import Tokenize, tokenizer_for
from workers.training.errors import ConfigInvalid, DatasetInvalid
from workers.training.models import efficientnet

Reader = Callable[[DataSpec, Any, Settings], Raw]
SPLIT_SEED = 0
"""Of test splits that are made here: the same for everybody, so that accuracies can be compared."""

_READERS: dict[str, Reader] = {
    "mnist5k": lambda spec, options, settings: packaged.mnist5k(settings),  # noqa: ARG005
    "fashion-mnist": lambda spec, options, settings: packaged.fashion_mnist(settings),  # noqa: ARG005
    "20newsgroups": lambda spec, options, settings: packaged.newsgroups(settings),  # noqa: ARG005
    "rotten-tomatoes": lambda spec, options, settings: packaged.rotten_tomatoes(settings),  # noqa: ARG005
    "bbc-news": lambda spec, options, settings: packaged.bbc_news(settings),  # noqa: ARG005
    "folder": folder.folder,
    "csv": table.table,
    "jsonl": table.table,
    "code": code.code,
}

NAMES: tuple[str, ...] = tuple(_READERS)


def load(spec: DataSpec, settings: Settings, model: ModelSpec | None = None) -> DataBundle:
    """Read, choose the samples, tokenise what was chosen.

    The order: the test split is made of training samples where the data has none or ``test_from`` says so (one that
    was made so before is not used then either); ``options.classes`` leaves the samples of some classes;
    ``train_size`` draws a class-balanced subset; of that, ``validation_ratio`` is held out; ``test_size`` takes the
    first of the test samples in a fixed shuffled order, or as even a share of each of ``options.classes``; what is
    left is resized.

    Args:
        model: whose tokenizer reads the texts, and which may want images scaled its way; needed for text data alone.

    Raises:
        DatasetInvalid: data missing or damaged.
        ConfigInvalid: options or sizes that cannot work, or a model that cannot read text.
        CodeError: the user's function raised.
    """
    if spec.name not in _READERS:
        raise ConfigInvalid(f"unknown data set {spec.name!r}; known: {', '.join(NAMES)}")
    try:
        options = DATA_OPTIONS[spec.name].model_validate(spec.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ConfigInvalid(f"data.options.{where}: {first['msg']}") from error
    raw = _READERS[spec.name](spec, options, settings)
    return assemble(raw, spec, options, lambda: _tokenizer(spec, settings, model), scale=_scale_of(model))


def _tokenizer(spec: DataSpec, settings: Settings, model: ModelSpec | None) -> Tokenize:
    if model is None:
        raise ConfigInvalid(f"data set {spec.name} holds text: it needs a model whose tokenizer reads it")
    return tokenizer_for(model, settings)


def _scale_of(model: ModelSpec | None) -> Scale | None:
    """What a network with pretrained weights was trained with; ``None``: any will do."""
    if model is None or model.name != "efficientnet-lite0":
        return None
    return Scale(torch.full((1, 1, 1), efficientnet.MEAN), torch.full((1, 1, 1), efficientnet.STD))


def assemble(
    raw: Raw, spec: DataSpec, options: BaseModel, tokenizer: Callable[[], Tokenize], *, scale: Scale | None = None
) -> DataBundle:
    """Choose the samples of every split and bring them into their final form.

    Args:
        scale: of the inputs, where the data asks for any; without it they get zero mean and unit variance.
    """
    train, test = _test_split(raw)
    if spec.test_from == "train":
        train, test = _test_split(replace(raw, train=train, test=None))
    _same_classes(train, test, raw.class_names)
    scale = (scale or _scale(train)) if raw.normalise else None
    seed = int(getattr(options, "subset_seed", 0))
    images = options if isinstance(options, ImageOptions) else ImageOptions()
    names = raw.class_names
    if images.classes is not None:
        train, test = only_classes(train, images.classes), only_classes(test, images.classes)
        names = tuple(names[number] for number in images.classes)
    if spec.train_size is not None:
        _fits(spec.train_size, train, "train_size", "training")
        train = train.take(balanced(train.labels, spec.train_size, seed))
    validation = None
    if spec.validation_ratio > 0.0:
        kept, held = stratified(train.labels, spec.validation_ratio, seed)
        if len(kept) == 0 or len(held) == 0:
            raise ConfigInvalid(f"data.validation_ratio {spec.validation_ratio} leaves a split without samples")
        train, validation = train.take(kept), train.take(held)
    if spec.test_size is not None:
        _fits(spec.test_size, test, "test_size", "test")
        drawn = permuted(len(test.labels), seed)[: spec.test_size]
        test = test.take(drawn if images.classes is None else balanced(test.labels, spec.test_size, seed))
    tokenize = tokenizer() if isinstance(train.samples, list) else None
    length = int(getattr(options, "max_length", 0))

    def final(part: RawSplit) -> Split:
        if isinstance(part.samples, list):
            assert tokenize is not None
            return Split(tokenize(part.samples, length), part.labels)
        samples = part.samples
        if isinstance(samples, Tensor):
            samples = samples if images.size is None else resized(samples, images.size)
            samples = samples if images.channels is None else with_channels(samples, images.channels)
        return Split(samples, part.labels, scale)

    held_out = None if validation is None else final(validation)
    return DataBundle(spec.name, raw.kind, final(train), held_out, final(test), names)


def _test_split(raw: Raw) -> tuple[RawSplit, RawSplit]:
    if raw.test is not None:
        return raw.train, raw.test
    kept, held = stratified(raw.train.labels, raw.test_ratio, SPLIT_SEED)
    if len(kept) == 0 or len(held) == 0:
        raise DatasetInvalid("too few samples for a training and a test split: give at least two of a class")
    return raw.train.take(kept), raw.train.take(held)


def _same_classes(train: RawSplit, test: RawSplit, names: tuple[str, ...]) -> None:
    """A class that is only in the test split can never be learned: the splits do not belong together.

    Raises:
        DatasetInvalid: names such classes.
    """
    unseen = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unseen:
        listed = ", ".join(repr(names[label]) for label in unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        raise DatasetInvalid(
            f"the test split has {len(unseen)} classes without a training sample ({listed}): "
            "check that both splits use the same labels"
        )


def _scale(train: RawSplit) -> Scale | None:
    """Over the whole training split, before it is resized, so that every subset, classes too, sees the same inputs."""
    return Scale.of(train.samples) if isinstance(train.samples, Tensor) else None


def _fits(size: int, split: RawSplit, field: str, what: str) -> None:
    if size > len(split.labels):
        raise ConfigInvalid(f"data.{field} is {size}, but there are only {len(split.labels)} {what} samples")
