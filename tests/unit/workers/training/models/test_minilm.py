"""MiniLM-L6 on the real package."""

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from workers.jobs.catalog import MODELS
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.errors import ConfigInvalid
from workers.training.models import TaskInfo, build, forward
from workers.training.models.minilm import TextClassifier

TASK = TaskInfo("text", 20, (12,))


@pytest.fixture
def model(minilm: Path, local: Settings) -> TextClassifier:
    return cast(TextClassifier, build(ModelSpec(name="minilm-l6"), TASK, local).eval())


def inputs(length: int, padding: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(1000, 1000 + length).unsqueeze(0)
    mask = torch.ones(1, length + padding, dtype=torch.int64)
    mask[:, length:] = 0
    return {"input_ids": torch.nn.functional.pad(ids, (0, padding)), "attention_mask": mask}


def test_every_tensor_of_the_encoder_is_the_files(model: TextClassifier, minilm: Path) -> None:
    stored = load_file(minilm / "model.safetensors")
    own = model.encoder.state_dict()
    assert len(own) == 101
    assert [name for name, value in own.items() if not torch.equal(value, stored[name])] == []
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS["minilm-l6"].parameters


def test_padding_does_not_change_the_logits(model: TextClassifier) -> None:
    with torch.no_grad():
        short, long = forward(model, inputs(8, 0)), forward(model, inputs(8, 4))
        different = forward(model, inputs(9, 0))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)
    assert (short - different).abs().max() > 1e-4


def test_every_parameter_gets_a_gradient(model: TextClassifier) -> None:
    forward(model.train(), inputs(8, 4)).logsumexp(dim=1).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_fewer_layers_keep_the_first_ones_and_random_weights_are_random(minilm: Path, local: Settings) -> None:
    stored = load_file(minilm / "model.safetensors")
    two = build(ModelSpec(name="minilm-l6", options={"layers": 2}), TASK, local)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(two.state_dict()[f"encoder.{name}"], stored[name])
    assert not any(".layer.2." in key for key in two.state_dict())
    fresh = build(ModelSpec(name="minilm-l6", pretrained=False, options={"layers": 1}), TASK, local)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(fresh.state_dict()[f"encoder.{name}"], stored[name])


def test_texts_longer_than_the_positions_are_refused(minilm: Path, local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="at most 512"):
        build(ModelSpec(name="minilm-l6"), TaskInfo("text", 2, (513,)), local)
