"""Any sequence classifier of ``transformers``, from a folder under the data directory or by hub name."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.jobs.options import TransformersOptions
from workers.jobs.paths import PathOutside, model_source
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid


class LogitsOnly(nn.Module):
    """Turns the library's output object into its logits. Parameter names gain the one prefix ``model.``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def resolve(spec: ModelSpec, settings: Settings) -> tuple[str, bool]:
    """The source to load from, and whether it is a local folder.

    Raises:
        ConfigInvalid: no path, or one that leaves the data directory, or a folder that is not there.
    """
    try:
        source = model_source(spec.path or "", settings.data_dir)
    except PathOutside as error:
        raise ConfigInvalid(f"model.path: {error}") from error
    if isinstance(source, Path):
        if not os.path.isfile(source / "config.json"):
            raise ConfigInvalid(f"model.path {spec.path!r} is no model folder: it has no config.json")
        return str(source), True
    return source, False


def build(spec: ModelSpec, options: TransformersOptions, task: TaskInfo, settings: Settings) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForSequenceClassification
    except ImportError as error:
        raise ConfigInvalid("this model needs transformers: pip install 'smartfrz[text]'") from error
    source, local = resolve(spec, settings)
    common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local, "revision": options.revision}
    try:
        config = AutoConfig.from_pretrained(source, num_labels=task.num_classes, **common)
        config.problem_type = "single_label_classification"
        if not spec.pretrained:
            fresh: Any = AutoModelForSequenceClassification
            return LogitsOnly(fresh.from_config(config, trust_remote_code=False))
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            weights_only=True,
            **common,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ConfigInvalid(f"transformers cannot load {spec.path!r}: {error}") from error
    _check_loaded(model, info, spec.path or source)
    return LogitsOnly(model)


def _check_loaded(model: Any, info: dict[str, Any], source: str) -> None:
    """Only the classification head may start fresh; a renamed encoder tensor must not stay random in silence."""
    prefix = f"{model.base_model_prefix}."
    fresh = list(info["missing_keys"]) + [str(entry[0]) for entry in info["mismatched_keys"]]
    # A pooler belongs to the head: checkpoints of plain encoders often come without one.
    left = sorted(name for name in fresh if name.startswith(prefix) and ".pooler." not in name)
    if left:
        names = f"{', '.join(left[:3])}{', ...' if len(left) > 3 else ''}"
        raise ConfigInvalid(f"the weights in {source} lack {len(left)} tensors of the encoder ({names})")
