"""A small BERT (Devlin et al. 2018) from random weights, reading MiniLM's tokens: text from scratch."""

from __future__ import annotations

from torch import nn

from workers.jobs.options import BertOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid
from workers.training.models.minilm import TextClassifier, make_encoder

VOCABULARY = 30_522
"""Entries of the tokenizer in the package ``minilm-l6``, the uncased one of BERT."""
POSITIONS = 512


def build(spec: ModelSpec, options: BertOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    if options.width % options.heads:
        raise ConfigInvalid(f"model.options.width {options.width} must be a multiple of heads {options.heads}")
    if task.input_shape[0] > POSITIONS:
        raise ConfigInvalid(f"data.options.max_length must be at most {POSITIONS} for {spec.name}")
    encoder = make_encoder(
        {
            "vocab_size": VOCABULARY,
            "hidden_size": options.width,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.heads,
            "intermediate_size": 4 * options.width,
            "max_position_embeddings": POSITIONS,
            "hidden_dropout_prob": options.dropout,
            "attention_probs_dropout_prob": options.dropout,
        }
    )
    return TextClassifier(encoder, options.width, task.num_classes, options.dropout)
