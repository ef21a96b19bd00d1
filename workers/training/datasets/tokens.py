"""Texts to tokens, by the tokenizer that belongs to the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.datasets.packaged import folder_of
from workers.training.errors import ConfigInvalid
from workers.training.models.hub import resolve

Tokenize = Callable[[Sequence[str], int], dict[str, Tensor]]
"""(texts, max_length) to ``input_ids`` and ``attention_mask``, int64 ``(n, max_length)``, cut and padded."""

_MISSING = "text data needs transformers and its tokenizers: pip install 'smartfrz[text]'"


def tokenizer_for(model: ModelSpec, settings: Settings) -> Tokenize:
    """The tokenizer of ``model``; bert-small and user code get MiniLM's.

    Raises:
        ConfigInvalid: the model reads no text, or the library is missing.
        DatasetInvalid: the package with the tokenizer is missing.
    """
    if model.name == "transformers":
        return _of_transformers(model, settings)
    if model.name in ("minilm-l6", "bert-small", "code"):
        return _of_minilm(settings)
    raise ConfigInvalid(f"model {model.name} cannot read text: choose minilm-l6, bert-small, transformers or code")


def _of_minilm(settings: Settings) -> Tokenize:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # ranks share the cores already
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigInvalid(_MISSING) from error
    tokenizer = Tokenizer.from_file(str(folder_of("minilm-l6", settings) / "tokenizer.json"))

    def tokenize(texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding(length=max_length)
        # WordPiece never joins words, so a long post need not be read past twice the length.
        short = [" ".join(text.split(None, 2 * max_length)[: 2 * max_length]) for text in texts]
        encodings = tokenizer.encode_batch(short)
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings], dtype=torch.int64),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.int64),
        }

    return tokenize


def _of_transformers(model: ModelSpec, settings: Settings) -> Tokenize:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigInvalid(_MISSING) from error
    source, local = resolve(model, settings)
    revision: Any = model.options.get("revision")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=local, revision=revision
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigInvalid(f"transformers cannot load the tokenizer of {model.path!r}: {error}") from error
    if tokenizer.pad_token is None:
        raise ConfigInvalid(f"the tokenizer of {model.path!r} has no padding token, which batches need")

    def tokenize(texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
        found = tokenizer(
            list(texts), truncation=True, padding="max_length", max_length=max_length, return_tensors="pt"
        )
        return {name: found[name].to(torch.int64) for name in ("input_ids", "attention_mask")}

    return tokenize
