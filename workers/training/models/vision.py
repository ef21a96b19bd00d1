"""Classifiers of torchvision by name, where it is installed."""

from __future__ import annotations

from torch import nn

from workers.jobs.options import TorchvisionOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import ConfigInvalid
from workers.training.models.weights import load_exactly


def build(spec: ModelSpec, options: TorchvisionOptions, task: TaskInfo, settings: Settings) -> nn.Module:  # noqa: ARG001
    """``options.arch`` with a head for the task; pretrained weights are downloaded by torchvision and hash-checked."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ConfigInvalid(
            "this model needs a torchvision that fits the installed torch: pip install 'smartfrz[vision]' "
            f"({type(error).__name__}: {error})"
        ) from error
    if task.input_shape[0] != 3:
        raise ConfigInvalid(f"torchvision models take 3 channels, but the data has {task.input_shape[0]}")
    if options.arch not in models.list_models(module=models):
        raise ConfigInvalid(f"torchvision has no classification model {options.arch!r}")
    model: nn.Module = models.get_model(options.arch, weights=None, num_classes=task.num_classes)
    if spec.pretrained and spec.path is None:
        weights = models.get_model_weights(options.arch).DEFAULT
        state = dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        own = model.state_dict()
        # The last layer alone may have another shape.
        last = {name for name in list(own)[-2:] if name in state and state[name].shape != own[name].shape}
        load_exactly(model, {name: own[name] if name in last else value for name, value in state.items()}, options.arch)
    return model
