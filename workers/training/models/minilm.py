"""MiniLM-L6 (Wang et al. 2020) from the local package: BERT encoder, mean over tokens, dropout, linear head."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from workers.jobs.options import MiniLmOptions
from workers.jobs.spec import ModelSpec
from workers.packages import DataPackageMissing, locate
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid, DatasetInvalid
from workers.training.models.weights import load_exactly, read_tensors

PACKAGE = "minilm-l6"
_UNUSED = ("embeddings.position_ids", "pooler.")
"""Tensors of the file that the encoder has no use for: a constant, and a pooler that never gets a gradient."""


class TextClassifier(nn.Module):
    """``input_ids`` and ``attention_mask``, int64 ``(n, length)``, to logits ``(n, num_classes)``."""

    def __init__(self, encoder: nn.Module, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


def build(spec: ModelSpec, options: MiniLmOptions, task: TaskInfo, settings: Settings) -> nn.Module:
    """With ``pretrained: false`` the same network with random weights; the package then gives its sizes alone."""
    try:
        folder = locate(PACKAGE, settings.packages)
    except DataPackageMissing as error:
        raise DatasetInvalid(str(error)) from error
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values["num_hidden_layers"] = options.layers
    if task.input_shape[0] > values["max_position_embeddings"]:
        raise ConfigInvalid(
            f"data.options.max_length must be at most {values['max_position_embeddings']} for {PACKAGE}"
        )
    encoder = make_encoder(values)
    if spec.pretrained:
        state = {k: v for k, v in read_tensors(folder / "model.safetensors").items() if not k.startswith(_UNUSED)}
        dropped = tuple(f"encoder.layer.{index}." for index in range(options.layers, 6))
        load_exactly(encoder, {k: v for k, v in state.items() if not k.startswith(dropped)}, PACKAGE)
    return TextClassifier(encoder, values["hidden_size"], task.num_classes, options.dropout)


def make_encoder(values: dict[str, Any]) -> nn.Module:
    """A BERT encoder with random weights, without pooler, from the values of its ``config.json``.

    Raises:
        ConfigInvalid: transformers is not installed.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ConfigInvalid("this model needs transformers: pip install 'smartfrz[text]'") from error
    known = {k: v for k, v in values.items() if k not in ("_name_or_path", "architectures", "transformers_version")}
    encoder: nn.Module = BertModel(BertConfig(**known), add_pooling_layer=False)
    return encoder.to(torch.float32)
