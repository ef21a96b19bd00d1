"""Texts to tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.datasets.tokens import tokenizer_for
from workers.training.errors import ConfigInvalid

Need = Callable[[str], Path]


def test_texts_are_cut_and_padded(need: Need, local: Settings) -> None:
    need("minilm-l6")
    found = tokenizer_for(ModelSpec(name="minilm-l6"), local)(["one two", "one two three four five", ""], 5)
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert found["input_ids"][0].tolist() == [101, 2028, 2048, 102, 0]
    assert found["input_ids"][1, -1] == 102


def test_reading_only_the_beginning_of_a_long_text_changes_no_token(need: Need, local: Settings) -> None:
    from tokenizers import Tokenizer

    whole = Tokenizer.from_file(str(need("minilm-l6") / "tokenizer.json"))
    whole.enable_truncation(16)
    whole.enable_padding(length=16)
    texts = ["a b c " * 40, "unbelievably " * 40, "  tabs\tand\nlines  " * 20, "x.y-z! " * 30, "日本語 テキスト " * 20]
    found = tokenizer_for(ModelSpec(name="minilm-l6"), local)(texts, 16)
    assert found["input_ids"].tolist() == [encoding.ids for encoding in whole.encode_batch(texts)]


def test_a_folder_of_transformers_brings_its_own_tokenizer(local: Settings) -> None:
    transformers = pytest.importorskip("transformers")
    assert local.data_dir is not None
    folder = local.data_dir / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(vocab_size=7, hidden_size=8, num_attention_heads=1).save_pretrained(folder)
    found = tokenizer_for(ModelSpec(name="transformers", path="tiny"), local)(["one two", "three"], 5)
    assert found["input_ids"].tolist() == [[2, 5, 6, 3, 0], [2, 1, 3, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert found["input_ids"].dtype == torch.int64


def test_an_image_model_reads_no_text(local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match="cannot read text"):
        tokenizer_for(ModelSpec(name="resnet-small"), local)
