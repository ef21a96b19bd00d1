"""The training runs that the shipped predictor was made from, as callables for :mod:`freezer.offline`.

They differ on purpose in what a clock cannot know: from scratch and fine-tuned, long and short, three schedules, two
optimizers. What is evaluated is always a network (or a data set) of which the predictor saw no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from freezer.offline.collect import RunPlan, Training, train_step
from workers.jobs.spec import DataSpec, LrScheduleSpec, ModelSpec, OptimizerSpec
from workers.settings import Settings
from workers.training import datasets, models
from workers.training.batch import Batch, forward
from workers.training.datasets import DataBundle, Split
from workers.training.optim import lr_factor, make_optimizer, set_lr
from workers.training.sampler import StepPlan

PROBE_BATCH = 64
PROBE_BATCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run in numbers.

    Attributes:
        held_out: share of *training* data kept for the similarity probe.
        options: of the data set.
        start: trained to its end first, unrecorded; this run fine-tunes what came of it.
    """

    model: str
    data: str
    seed: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.0
    pretrained: bool = False
    train_size: int | None = None
    test_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    start: RunSpec | None = None
    max_steps: int | None = None
    weight_decay: float = 0.0
    held_out: float = 0.1

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}-{self.seed}"


def _image(model: str, data: str, seed: int, epochs: int, optimizer: str, lr: float, **more: Any) -> RunSpec:
    return RunSpec(
        model=model, data=data, seed=seed, epochs=epochs, batch_size=32, optimizer=optimizer, lr=lr,
        **{"train_size": 3000, "test_size": None if data == "mnist5k" else 2000, **more},
    )  # fmt: skip


def _text(data: str, seed: int, lr: float, max_length: int, steps: int, **more: Any) -> RunSpec:
    values = {"model": "minilm-l6", "pretrained": True, "weight_decay": 0.01, "test_size": 500, **more}
    return RunSpec(
        data=data, seed=seed, epochs=100, batch_size=16, optimizer="adamw", lr=lr,
        options={"max_length": max_length}, max_steps=steps, **values,
    )  # fmt: skip


def _large(seed: int, optimizer: str, lr: float, steps: int, **more: Any) -> RunSpec:
    return RunSpec(
        model="efficientnet-lite0", data="fashion-mnist", seed=seed, epochs=100, batch_size=32, optimizer=optimizer,
        lr=lr, max_steps=steps, pretrained=True, train_size=2000, test_size=500, held_out=0.08,
        options={"size": 64, "channels": 3}, **more,
    )  # fmt: skip


def _half(seed: int, classes: range, size: int, epochs: int, optimizer: str, lr: float, **more: Any) -> RunSpec:
    return RunSpec(
        model="resnet-small", data="fashion-mnist", seed=seed, epochs=epochs, batch_size=32, optimizer=optimizer, lr=lr,
        train_size=size, test_size=1000, options={"classes": list(classes)}, **more,
    )  # fmt: skip


RUNS: tuple[RunSpec, ...] = (
    _image("resnet-small", "mnist5k", 0, 6, "adamw", 2e-3),
    _image("resnet-small", "mnist5k", 1, 8, "sgd", 0.05, weight_decay=5e-4),
    _image("resnet-small", "mnist5k", 2, 2, "adamw", 1e-3, schedule="constant"),
    _image("resnet-small", "fashion-mnist", 0, 8, "sgd", 0.05, weight_decay=5e-4, warmup_ratio=0.05),
    _image("resnet-small", "fashion-mnist", 1, 3, "adamw", 2e-3, schedule="linear"),
    _image("resnet-small", "fashion-mnist", 2, 16, "adamw", 1e-3),
    _image("vgg-small", "mnist5k", 0, 6, "adamw", 1e-3, warmup_ratio=0.05),
    _image("vgg-small", "mnist5k", 1, 8, "sgd", 0.02, schedule="linear"),
    _image("vgg-small", "fashion-mnist", 0, 3, "sgd", 0.05, schedule="constant"),
    _image("vgg-small", "fashion-mnist", 1, 8, "adamw", 1e-3),
    _image("mobilenetv2-small", "mnist5k", 0, 4, "adamw", 2e-3),
    _image("mobilenetv2-small", "mnist5k", 1, 5, "sgd", 0.05, weight_decay=5e-4),
    _image("mobilenetv2-small", "fashion-mnist", 0, 2, "adamw", 2e-3, schedule="constant"),
    _image("mobilenetv2-small", "fashion-mnist", 1, 6, "sgd", 0.1, weight_decay=5e-4),
    _image("vit-small", "mnist5k", 0, 8, "adamw", 1e-3, warmup_ratio=0.1),
    _image("vit-small", "mnist5k", 1, 6, "adamw", 5e-4, schedule="constant"),
    _image("vit-small", "fashion-mnist", 0, 10, "adamw", 1e-3, warmup_ratio=0.1),
    _image("vit-small", "fashion-mnist", 1, 4, "adamw", 2e-3, schedule="linear", weight_decay=0.05),
    _text("rotten-tomatoes", 0, 1e-4, 32, 150, train_size=1600),
    _text("rotten-tomatoes", 1, 4e-4, 32, 120, train_size=1200, schedule="linear", warmup_ratio=0.1),
    _text("20newsgroups", 0, 2e-4, 40, 150, train_size=1600),
    _text("20newsgroups", 1, 1e-4, 40, 240, train_size=1600, schedule="constant", warmup_ratio=0.05),
    _text("20newsgroups", 10, 5e-4, 40, 240, train_size=3200, pretrained=False, warmup_ratio=0.1),
    _text("bbc-news", 0, 1e-4, 48, 120, train_size=1100, test_size=None),
    _text("20newsgroups", 0, 1e-3, 40, 400, model="bert-small", pretrained=False, train_size=3200, warmup_ratio=0.1),
    _text("rotten-tomatoes", 0, 5e-4, 32, 300, model="bert-small", pretrained=False, train_size=3200),
    _large(0, "adamw", 5e-4, 120),
    _large(1, "sgd", 0.02, 90, schedule="constant"),
    _half(20, range(5, 10), 1500, 8, "sgd", 0.02, start=_half(20, range(5), 4000, 4, "sgd", 0.05)),
    _half(21, range(5, 10), 800, 6, "adamw", 5e-4, start=_half(21, range(5), 4000, 4, "adamw", 2e-3)),
)
"""Seeds of 10 and more: from random initialisation what others are fine-tuned from; 20 and more: fine-tuned on half of
the classes after the other half."""


def plan(spec: RunSpec, settings: Settings) -> RunPlan:
    """The run as :func:`freezer.offline.collect.collect` wants it; nothing is loaded before it starts."""
    return RunPlan(
        name=spec.name,
        network=spec.model,
        dataset=spec.data,
        seed=spec.seed,
        pretrained=spec.pretrained,
        make=lambda: make(spec, settings),
        recipe=asdict(spec),
    )


def make(spec: RunSpec, settings: Settings) -> Training:
    """Data, model, optimizer and probe of a run, on the CPU. Sets this process's random seed."""
    model_spec = ModelSpec(name=spec.model, pretrained=spec.pretrained)
    bundle = datasets.load(
        DataSpec(
            name=spec.data,
            train_size=spec.train_size,
            test_size=spec.test_size,
            validation_ratio=spec.held_out,
            options=dict(spec.options),
        ),
        settings,
        model_spec,
    )
    torch.manual_seed(spec.seed)
    model = models.build(model_spec, bundle.task, settings, seed=spec.seed)
    if spec.start is not None:
        model.load_state_dict(_finished(spec.start, settings))
    optimizer = make_optimizer(
        model, OptimizerSpec.model_validate({"name": spec.optimizer, "lr": spec.lr, "weight_decay": spec.weight_decay})
    )
    steps = StepPlan(samples=len(bundle.train), batch_size=spec.batch_size, accumulation=1, world=1, seed=spec.seed)
    total = steps.total_steps(spec.epochs, spec.max_steps)
    schedule = LrScheduleSpec(name=spec.schedule, warmup_ratio=spec.warmup_ratio)
    return Training(
        model=model,
        optimizer=optimizer,
        batches=_batches(bundle, steps, total, optimizer, schedule, spec.lr),
        loss=_loss,
        total_steps=total,
        probes=_probes(bundle),
        outcome=lambda trained: {"test_accuracy": accuracy(trained, bundle.test)},
        grad_clip=1.0,
    )


def _finished(spec: RunSpec, settings: Settings) -> dict[str, Tensor]:
    """Weights at the end of a run that is not recorded."""
    training = make(spec, settings)
    for batch in training.batches:
        train_step(training, batch)
    return training.model.state_dict()


def _batches(
    bundle: DataBundle,
    steps: StepPlan,
    total: int,
    optimizer: torch.optim.Optimizer,
    schedule: LrScheduleSpec,
    rate: float,
) -> Iterator[Batch]:
    """One batch a step; the learning rate is set just before it, as the training loop does."""
    for step in range(total):
        set_lr(optimizer, rate * lr_factor(schedule, step, total))
        yield bundle.train.batch(torch.as_tensor(steps.micro_batches(step, 0)[0]))


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(forward(model, batch.inputs), batch.labels)


def _probes(bundle: DataBundle) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Minibatches of held-out training data as model arguments."""
    held = bundle.validation
    assert held is not None, "the data spec always holds some out"
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))
    size = min(PROBE_BATCH, len(held) // PROBE_BATCHES)
    parts = torch.split(order, size)[:PROBE_BATCHES]
    inputs = [held.batch(part).inputs for part in parts]
    return [((), dict(i)) if isinstance(i, dict) else ((i,), {}) for i in inputs]


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of right predictions on a split, in eval mode."""
    model.eval()
    right = 0
    for part in torch.split(torch.arange(len(split)), 128):
        batch = split.batch(part)
        right += int((forward(model, batch.inputs).argmax(1) == batch.labels).sum())
    return right / len(split)
