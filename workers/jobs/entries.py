"""What can be trained, and how: names, option schemas and sizes of models, data sets and policies. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workers.jobs.freeze_schema import freeze_schema
from workers.jobs.options import DATA_OPTIONS, MODEL_OPTIONS, schema_of

Task = Literal["image", "text", "features", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that a spec can name.

    Attributes:
        schema: JSON Schema of the options (of the whole freeze section, for a policy).
        task: kind of data; ``any``: decided by the user's code or options.
        pretrained: whether ``pretrained: true`` has an effect.
        parameters: measured with default options on the data that ``measured_on`` names; None: depends on the user.
        package: data package that must be fetched, by name.
    """

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    task: Task = "any"
    pretrained: bool = False
    parameters: int | None = None
    measured_on: str | None = None
    package: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def _entries(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _model(name: str, description: str, task: Task, **more: Any) -> Entry:
    return Entry(name=name, description=description, task=task, schema=schema_of(MODEL_OPTIONS[name]), **more)


def _data(name: str, description: str, task: Task, package: str | None = None) -> Entry:
    schema = schema_of(DATA_OPTIONS[name])
    return Entry(name=name, description=description, task=task, schema=schema, package=package)


MODELS: dict[str, Entry] = _entries(
    _model(
        "resnet-small",
        "Residual network for small images (28 to 64 pixels), sized for CPUs.",
        "image",
        parameters=77_754,
        measured_on="mnist5k",
    ),
    _model(
        "vgg-small",
        "Plain convolutional network with BatchNorm for small images.",
        "image",
        parameters=72_666,
        measured_on="mnist5k",
    ),
    _model(
        "mobilenetv2-small",
        "Inverted residuals with depthwise convolutions for small images.",
        "image",
        parameters=79_930,
        measured_on="mnist5k",
    ),
    _model(
        "vit-small",
        "Vision transformer for small images whose side the patch divides.",
        "image",
        parameters=138_890,
        measured_on="mnist5k",
    ),
    _model(
        "efficientnet-lite0",
        "EfficientNet-Lite0 with ImageNet weights and a fresh head. Its input has 3 channels and is halved 5 times: "
        "set `channels` and `size` of the data. Images are scaled as its weights expect.",
        "image",
        pretrained=True,
        parameters=3_383_818,
        measured_on="mnist5k",
        package="efficientnet-lite0",
    ),
    _model(
        "minilm-l6",
        "MiniLM-L6: a pretrained 6-layer BERT encoder, mean pooling and a fresh head.",
        "text",
        pretrained=True,
        parameters=22_573_076,
        measured_on="20newsgroups",
        package="minilm-l6",
    ),
    _model(
        "bert-small",
        "A small BERT encoder from random weights, with MiniLM's tokenizer, mean pooling and a head.",
        "text",
        parameters=11_109_908,
        measured_on="20newsgroups",
        package="minilm-l6",
    ),
    _model(
        "transformers",
        "Any sequence classifier of the transformers library: `path` is a folder under the data directory or a hub "
        "name. Code of a model repository is never run.",
        "text",
        pretrained=True,
    ),
    _model(
        "torchvision",
        "A torchvision classifier by `options.arch`, where torchvision is installed.",
        "image",
        pretrained=True,
    ),
    _model(
        "code",
        "Your own function: `entry` is file.py:function under the operator's code directory; it gets num_classes and "
        "the options, and returns a torch.nn.Module.",
        "any",
    ),
)

DATASETS: dict[str, Entry] = _entries(
    _data(
        "mnist5k",
        "5,000 handwritten digits, 28x28 grey, 10 classes; fixed stratified split 4,000/1,000.",
        "image",
        package="mnist5k",
    ),
    _data(
        "fashion-mnist",
        "70,000 pictures of clothes, 28x28 grey, 10 classes; 60,000/10,000.",
        "image",
        package="fashion-mnist",
    ),
    _data(
        "20newsgroups",
        "Newsgroup posts, 20 classes; 11,293/7,528.",
        "text",
        package="20newsgroups",
    ),
    _data(
        "rotten-tomatoes",
        "Sentences of film reviews, 2 classes; fixed stratified split 80/20, repeated texts dropped.",
        "text",
        package="rotten-tomatoes",
    ),
    _data(
        "bbc-news",
        "News articles, 5 classes, repeated texts dropped; fixed stratified split 1,699/426.",
        "text",
        package="bbc-news",
    ),
    _data("folder", "Your own images under `path`: one subfolder a class.", "image"),
    _data("csv", "Your own CSV file with a header line under `path`.", "any"),
    _data("jsonl", "Your own file with one JSON object a line under `path`.", "any"),
    _data(
        "code",
        "Your own function: `entry` is file.py:function under the operator's code directory; it gets the options, and "
        "returns (train, test), each (inputs, labels).",
        "any",
    ),
)

_POLICIES = {
    "smartfrz": "Calibrated attention predictor over the window of each unit's weights; the default.",
    "smartfrz-paper": "The paper's predictor on raw weight windows; needs weights that you train, none are shipped.",
    "static": "The named or the first units are frozen, from the start or from a given moment on.",
    "linear": "Freeze a share of the units that grows linearly from a start to a level.",
    "thaw-last": "Calendar for fine-tuning: the first units are frozen from the start, their outputs cached; near the "
    "end they train too. Sets the learning rate.",
    "freezeout": "Calendar (Brock et al. 2017): each unit's learning rate falls along its own cosine, then it freezes.",
    "autofreeze": "Freezes blocks whose summed gradients change least from one interval to the next (Liu et al. 2021).",
    "egeria": "Freezes the front block once its activations stop moving against an int8 reference; thaws when the "
    "learning rate falls tenfold (Wang et al. 2023).",
    "none": "Never freeze: full training, measured the same way.",
    "random": "Control: every unit freezes at a random moment; `share` sets how much is expected to be frozen.",
    "progress-only": "Control: a predictor that sees only how far training is.",
}

POLICIES: dict[str, Entry] = _entries(
    *(Entry(name=name, description=text, schema=freeze_schema(name, text)) for name, text in _POLICIES.items())
)
