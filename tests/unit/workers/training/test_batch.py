"""The contract of batches and logits."""

import pytest
import torch
from torch import Tensor, nn

from workers.training.batch import Batch, check_logits, forward
from workers.training.errors import ConfigInvalid


class Named(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b


def test_named_inputs_are_passed_by_name() -> None:
    assert forward(Named(), {"b": torch.ones(1), "a": torch.full((1,), 3.0)}).item() == 2.0
    assert forward(nn.Identity(), torch.ones(2)).tolist() == [1.0, 1.0]


def test_a_batch_moves_as_one() -> None:
    moved = Batch({"a": torch.ones(2)}, torch.zeros(2, dtype=torch.int64)).to("meta")
    assert isinstance(moved.inputs, dict)
    assert moved.inputs["a"].device.type == moved.labels.device.type == "meta"
    single = Batch(torch.ones(2), torch.zeros(2)).to("meta").inputs
    assert isinstance(single, Tensor)
    assert single.device.type == "meta"


def test_logits_of_another_width_are_refused_with_the_width_that_is_needed() -> None:
    batch = Batch(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    check_logits(torch.zeros(4, 3), batch, 3)
    with pytest.raises(ConfigInvalid, match="needs 3 outputs"):
        check_logits(torch.zeros(4, 5), batch, 3)
    with pytest.raises(ConfigInvalid, match="returned tuple"):
        check_logits((torch.zeros(4, 3),), batch, 3)


def test_labels_outside_of_the_classes_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match="between 0 and 3"):
        check_logits(torch.zeros(2, 3), Batch(torch.ones(2, 1), torch.tensor([0, 3])), 3)
