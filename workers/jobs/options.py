"""Options of models and data sets: one class each, the single source of JSON Schema, checks and defaults. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Options(BaseModel):
    """Base: unknown options are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelOptions(Options):
    num_classes: int | None = Field(None, ge=2, description="Must equal the data's; null: taken from the data.")


class ConvNetOptions(ModelOptions):
    width: int = Field(16, ge=4, le=256, description="Channels of the first stage; later stages have 2x and 4x.")
    depth: int = Field(1, ge=1, le=16, description="Blocks in every stage.")


class VggOptions(ConvNetOptions):
    depth: int = Field(2, ge=1, le=8, description="Convolutions in every stage.")


class VitOptions(ModelOptions):
    width: int = Field(64, ge=8, le=1024, description="Token width; a multiple of heads.")
    depth: int = Field(4, ge=1, le=24, description="Encoder blocks.")
    heads: int = Field(4, ge=1, le=16, description="Attention heads.")
    patch: int = Field(4, ge=1, le=32, description="Patch side in pixels; must divide the image.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class MiniLmOptions(ModelOptions):
    layers: int = Field(6, ge=1, le=6, description="Encoder layers kept, from the input.")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Before the head.")


class BertOptions(ModelOptions):
    layers: int = Field(4, ge=1, le=24, description="Encoder layers.")
    width: int = Field(256, ge=8, le=1024, description="Token width; a multiple of heads.")
    heads: int = Field(4, ge=1, le=16, description="Attention heads.")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="In the encoder and before the head.")


class EfficientNetOptions(ModelOptions):
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="Before the head.")


class TransformersOptions(ModelOptions):
    revision: str | None = Field(None, description="Hub revision (commit, tag or branch).")


class TorchvisionOptions(ModelOptions):
    arch: str = Field(description="Name of a torchvision classification model, for example resnet18.")


class CodeOptions(BaseModel):
    """Free: passed to the user's function as keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    num_classes: int | None = Field(None, ge=2, description="Must equal the data's; null: taken from the data.")


class DataOptions(Options):
    subset_seed: int = Field(0, ge=0, description="Which fixed subset train_size, test_size and validation draw.")


class ImageOptions(DataOptions):
    """Of the packaged sets of ten classes."""

    classes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=2)] | None = Field(
        None, description="Only these class numbers, renumbered from 0 in this order; null: all."
    )
    size: int | None = Field(None, ge=8, le=256, description="Images are resized to size x size pixels; null: as is.")
    channels: Literal[1, 3] | None = Field(None, description="3: the grey channel is repeated; null: as is.")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"class numbers must be distinct, but {value} repeats one")
        return value


class TextOptions(DataOptions):
    max_length: int = Field(64, ge=4, le=512, description="Tokens a text is cut or padded to.")


class FolderOptions(DataOptions):
    size: int = Field(32, ge=8, le=512, description="Images are resized to size x size pixels.")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: colour.")
    test_ratio: float = Field(0.2, gt=0.0, lt=1.0, description="Held out where there is no test folder.")
    max_pixels: int = Field(50_000_000, ge=1, description="Larger images are refused before they are decoded.")


class TableOptions(TextOptions):
    kind: Literal["text", "features"] = Field("text", description="features: every other column is a number.")
    text_column: str = Field("text", description="kind text only.")
    label_column: str = "label"
    test_path: str | None = Field(None, description="File with the test split, under the data directory.")
    test_ratio: float = Field(0.2, gt=0.0, lt=1.0, description="Held out where there is no test_path.")


class CodeDataOptions(BaseModel):
    """Free: passed to the user's function as keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)


def schema_of(options: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of the options, without the class's name and notes."""
    schema = options.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    for value in schema.get("properties", {}).values():
        value.pop("title", None)
    return schema


MODEL_OPTIONS: dict[str, type[BaseModel]] = {
    "resnet-small": ConvNetOptions,
    "vgg-small": VggOptions,
    "mobilenetv2-small": ConvNetOptions,
    "vit-small": VitOptions,
    "efficientnet-lite0": EfficientNetOptions,
    "minilm-l6": MiniLmOptions,
    "bert-small": BertOptions,
    "transformers": TransformersOptions,
    "torchvision": TorchvisionOptions,
    "code": CodeOptions,
}

DATA_OPTIONS: dict[str, type[BaseModel]] = {
    "mnist5k": ImageOptions,
    "fashion-mnist": ImageOptions,
    "20newsgroups": TextOptions,
    "rotten-tomatoes": TextOptions,
    "bbc-news": TextOptions,
    "folder": FolderOptions,
    "csv": TableOptions,
    "jsonl": TableOptions,
    "code": CodeDataOptions,
}
