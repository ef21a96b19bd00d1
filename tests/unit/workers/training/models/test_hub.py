"""Models of transformers, from a folder with random weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.errors import ConfigInvalid
from workers.training.models import TaskInfo, build, forward

transformers = pytest.importorskip("transformers")

TASK = TaskInfo("text", 3, (8,))
SPEC = ModelSpec(name="transformers", path="tiny")
BATCH = {"input_ids": torch.arange(16).view(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}


@pytest.fixture
def folder(local: Settings) -> Path:
    """A tiny BERT, saved as the library saves it."""
    assert local.data_dir is not None
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    path = local.data_dir / "tiny"
    transformers.BertModel(config).save_pretrained(path)
    return path


def test_the_encoder_is_loaded_and_the_head_is_new(folder: Path, local: Settings) -> None:
    model = build(SPEC, TASK, local)
    assert forward(model, BATCH).shape == (2, 3)
    stored = load_file(folder / "model.safetensors")
    own = model.state_dict()
    assert [name for name, value in stored.items() if not torch.equal(own[f"model.bert.{name}"], value)] == []


def test_the_fresh_head_is_seeded(folder: Path, local: Settings) -> None:
    first, again, other = (build(SPEC, TASK, local, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(first["model.classifier.weight"], again["model.classifier.weight"])
    assert not torch.equal(first["model.classifier.weight"], other["model.classifier.weight"])


def test_without_pretrained_the_weights_are_random(folder: Path, local: Settings) -> None:
    model = build(SPEC.model_copy(update={"pretrained": False}), TASK, local)
    stored = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(model.state_dict()[f"model.bert.{name}"], stored[name])
    assert forward(model, BATCH).shape == (2, 3)


def test_an_encoder_tensor_under_another_name_is_refused(folder: Path, local: Settings) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["encoder.layer.0.renamed.weight"] = stored.pop("encoder.layer.0.attention.self.query.weight")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigInvalid, match="lack 1 tensors of the encoder"):
        build(SPEC, TASK, local)


@pytest.mark.parametrize(("path", "says"), [("/etc", "leads out"), ("../x", "leads out"), ("empty", "no model folder")])
def test_a_path_that_is_no_model_is_refused(path: str, says: str, local: Settings) -> None:
    assert local.data_dir is not None
    (local.data_dir / "empty").mkdir()
    with pytest.raises(ConfigInvalid, match=says):
        build(ModelSpec(name="transformers", path=path), TASK, local)
