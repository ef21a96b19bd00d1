"""A small BERT from random weights."""

from pathlib import Path

import pytest
import torch

from workers.jobs.catalog import MODELS
from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.models import TaskInfo, build, forward

SPEC = ModelSpec(name="bert-small", options={"layers": 2, "width": 16, "heads": 2})


def test_the_catalog_gives_the_measured_size(local: Settings) -> None:
    model = build(ModelSpec(name="bert-small"), TaskInfo("text", 20, (64,)), local)
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS["bert-small"].parameters


def test_it_reads_what_the_tokenizer_gives_and_trains_every_parameter(minilm: Path, local: Settings) -> None:
    assert local.data_dir is not None
    rows = "".join(f"the film was number {i},{'good' if i % 2 else 'bad'}\n" for i in range(20))
    (local.data_dir / "films.csv").write_text("text,label\n" + rows)
    data = load(DataSpec(name="csv", path="films.csv", options={"max_length": 12}), local, SPEC)
    model = build(SPEC, data.task, local, seed=1)
    batch = data.train.batch(torch.arange(6))
    loss = torch.nn.functional.cross_entropy(forward(model, batch.inputs), batch.labels)
    loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_vocabulary_is_the_tokenizers(minilm: Path, local: Settings) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json")).get_vocab_size()
    table = build(SPEC, TaskInfo("text", 2, (12,)), local).get_submodule("encoder.embeddings.word_embeddings")
    assert table.weight.shape == (words, 16)
