"""The job spec: what a user submits. Unknown fields are refused everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from freezer.config import ANNEAL, FreezeConfig
from freezer.options import OPTION_SCHEMAS
from workers.jobs.entries import MODELS

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,127}$")]


class Strict(BaseModel):
    """Base of every part of a spec: immutable; unknown fields and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Strict):
    """Where a model or data come from: a registry name, or ``code`` with ``entry``."""

    name: str
    entry: str | None = Field(
        None, validate_default=True, description="file.py:function under the operator's code directory (name: code)."
    )

    @field_validator("entry")
    @classmethod
    def _only_with_code(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if name is not None and (name == "code") != (value is not None):
            raise ValueError("name 'code' needs an entry, file.py:function, and no other name takes one")
        return value


class ModelSpec(Source):
    """Which model: a registry name, or ``name: code`` with ``entry``, or ``name: transformers`` with ``path``."""

    name: str = Field(description="A name from /v1/models.", examples=["minilm-l6", "resnet-small", "code"])
    path: str | None = Field(None, description="Weights folder or hub name (name: transformers).")
    init_from: str | None = Field(
        None,
        pattern=r"^job_[0-9a-f]{1,32}$",
        description="Start from the weights of this job, which succeeded; then `pretrained` has no effect. Tensors are "
        "taken by name and shape; a head of another shape starts fresh.",
    )
    pretrained: bool = Field(True, description="Start from pretrained weights where the model has any.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the model; see its JSON Schema.")


class DataSpec(Source):
    """Which data: a registry name, or ``folder``/``csv`` with ``path``, or ``code`` with ``entry``."""

    name: str = Field(description="A name from /v1/datasets.", examples=["20newsgroups", "mnist5k"])
    path: str | None = Field(None, description="Folder or file under the operator's data directory (folder, csv).")
    train_size: int | None = Field(None, ge=1, description="Use a fixed, class-balanced subset of this many samples.")
    test_size: int | None = Field(None, ge=1, description="Evaluate on so many test samples, chosen once; all if null.")
    test_from: Literal["test", "train"] = Field(
        "test",
        description="train: the score is of training samples held out in place of the test split, which is not used. "
        "For choosing settings on.",
    )
    validation_ratio: float = Field(0.0, ge=0.0, lt=1.0, description="Share of training data held out for early stop.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the data set; see its JSON Schema.")


class OptimizerSpec(Strict):
    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="sgd only.")


class LrScheduleSpec(Strict):
    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the steps with a linear warm-up.")


class EarlyStopSpec(Strict):
    """The run ends with the weights of its best evaluation, whether it is stopped or not."""

    patience: int = Field(2, ge=1, description="Evaluations without improvement before training stops.")
    min_delta: float = Field(0.0, ge=0.0)


class TrainingSpec(Strict):
    epochs: int = Field(1, ge=1, le=10_000)
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; overrides epochs when smaller.")
    batch_size: int = Field(32, ge=1, description="Samples per process and micro-batch.")
    gradient_accumulation: int = Field(1, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    lr_schedule: LrScheduleSpec = LrScheduleSpec()
    precision: Literal["auto", "fp32", "bf16"] = Field("fp32", description="auto: bf16 where the device has it.")
    grad_clip: float | None = Field(None, gt=0.0)
    early_stop: EarlyStopSpec | None = None
    evaluate_every_epochs: int | None = Field(None, ge=1, description="Null: only at the end.")
    eval_batch_size: int = Field(128, ge=1)
    checkpoint_every_seconds: float = Field(60.0, gt=0.0)
    checkpoint_every_steps: int | None = Field(None, ge=1, description="In place of the time-based interval.")
    seed: int = Field(0, ge=0)


class ResourcesSpec(Strict):
    workers: Literal[1] = Field(1, description="Hosts. One for now.")
    processes_per_worker: int = Field(1, ge=1, description="DDP ranks.")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class JobSpec(Strict):
    """One training job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "first",
                    "model": {"name": "resnet-small"},
                    "data": {"name": "mnist5k"},
                    "training": {"epochs": 6},
                    "freeze": {"policy": "smartfrz"},
                    "resources": {"processes_per_worker": 2},
                }
            ]
        }
    )

    spec_version: Literal[1] = 1
    name: Name
    model: ModelSpec
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    freeze: dict[str, Any] = Field(
        default_factory=lambda: {"policy": "smartfrz"},
        description="See /v1/policies; the fields of FreezeConfig.",
    )
    resources: ResourcesSpec = ResourcesSpec()
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")
    max_attempts: int = Field(
        3, ge=1, le=100, description="Starts after a lost worker or a full disk, the first included."
    )
    max_duration_seconds: float | None = Field(None, gt=0.0)
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)

    @field_validator("metadata")
    @classmethod
    def _short_metadata(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if len(key) > 64 or len(text) > 512:
                raise ValueError("metadata keys have at most 64 characters, values at most 512")
        return value

    def freeze_config(self) -> FreezeConfig:
        """The freeze section, validated; ``options.anneal`` filled in where the policy has it and it was left open.

        Raises:
            freezer.errors.ConfigError: with a pointer relative to ``/freeze``.
        """
        config = FreezeConfig.from_dict(self.freeze)
        known = OPTION_SCHEMAS.get(config.policy, {})
        if "anneal" not in known or "anneal" in config.options or not self.from_scratch():
            return config
        if self.training.lr_schedule.name == "constant" or self.training.optimizer.name != "sgd":
            return config  # the user wants the rate to stay; with AdamW it was measured to harm (decision 12)
        return replace(config, options={**config.options, "anneal": ANNEAL})

    def from_scratch(self) -> bool:
        """Whether the network starts from random weights, as far as a spec can tell: user code may do anything."""
        model, entry = self.model, MODELS.get(self.model.name)
        if entry is None or model.name == "code" or model.init_from is not None or model.path is not None:
            return False
        return not (entry.pretrained and model.pretrained)
