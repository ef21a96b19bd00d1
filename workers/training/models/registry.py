"""From the name in a spec to a module. The global random state of the process is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from workers.jobs.options import MODEL_OPTIONS
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.batch import Kind, TaskInfo
from workers.training.errors import ConfigInvalid
from workers.training.models import bert, code, efficientnet, hub, minilm, mobilenet, resnet, vgg, vision, vit
from workers.training.models.weights import load_initial

Builder = Callable[[ModelSpec, Any, TaskInfo, Settings], nn.Module]

_BUILDERS: dict[str, tuple[tuple[Kind, ...], Builder]] = {
    "resnet-small": (("image",), resnet.build),
    "vgg-small": (("image",), vgg.build),
    "mobilenetv2-small": (("image",), mobilenet.build),
    "vit-small": (("image",), vit.build),
    "efficientnet-lite0": (("image",), efficientnet.build),
    "minilm-l6": (("text",), minilm.build),
    "bert-small": (("text",), bert.build),
    "transformers": (("text",), hub.build),
    "torchvision": (("image",), vision.build),
    "code": (("image", "text", "features"), code.build),
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build(spec: ModelSpec, task: TaskInfo, settings: Settings, *, seed: int = 0) -> nn.Module:
    """The model of ``spec`` for ``task``, in fp32 on the CPU, in training mode.

    Where ``spec.init_from`` names a job, the weights are random: ``inherit`` loads that job's.

    Raises:
        ConfigInvalid: unknown name or options, data of another kind, another number of classes, weights that do not
            fit, or a library that is not installed.
        DatasetInvalid: the package with the pretrained weights is missing.
        CodeError: the user's function raised or returned no module.
    """
    if spec.name not in _BUILDERS:
        raise ConfigInvalid(f"unknown model {spec.name!r}; known: {', '.join(NAMES)}")
    kinds, builder = _BUILDERS[spec.name]
    if task.kind not in kinds:
        raise ConfigInvalid(f"model {spec.name} takes {' or '.join(kinds)} data, but the data is of kind {task.kind}")
    try:
        options = MODEL_OPTIONS[spec.name].model_validate(spec.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ConfigInvalid(f"model.options.{where}: {first['msg']}") from error
    wanted = getattr(options, "num_classes", None)
    if wanted is not None and wanted != task.num_classes:
        raise ConfigInvalid(
            f"model.options.num_classes is {wanted}, but the data has {task.num_classes} classes: "
            f"leave num_classes out, or use data with {wanted} classes"
        )
    if spec.init_from is not None:
        spec = spec.model_copy(update={"pretrained": False})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder(spec, options, task, settings)
    if spec.path is not None and spec.name != "transformers":
        load_initial(model, spec.path, settings)
    return model.train()
