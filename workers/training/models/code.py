"""A model from the user's own function."""

from __future__ import annotations

from torch import nn

from workers.jobs.options import CodeOptions
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import TaskInfo
from workers.training.errors import CodeError
from workers.training.usercode import call, load_function


def build(spec: ModelSpec, options: CodeOptions, task: TaskInfo, settings: Settings) -> nn.Module:
    """``function(num_classes=..., **options)`` must return a module that maps a batch's inputs to logits."""
    function = load_function(spec.entry or "", settings.code_dir)
    arguments = {**options.model_dump(exclude={"num_classes"}), "num_classes": task.num_classes}
    model = call(function, spec.entry or "", arguments)
    if not isinstance(model, nn.Module):
        raise CodeError(f"{spec.entry} must return a torch.nn.Module, but returned {type(model).__name__}")
    return model
