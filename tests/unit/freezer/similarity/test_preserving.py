"""The similarity-preserving loss against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from freezer.similarity import similarity_preserving_loss


def test_two_samples_by_hand() -> None:
    """Gram matrices [[1, 0], [0, 4]] and [[1, 1], [1, 2]]; rows of length 1, then squared differences over b * b."""
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    rows = ((1 - math.sqrt(0.5)) ** 2 + 0.5) + (0.2 + (1 - 2 / math.sqrt(5)) ** 2)
    assert similarity_preserving_loss(first, second) == pytest.approx(rows / 4)


def test_rotation_and_scale_change_nothing() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 2, 4)
    turned = 3.0 * features.flatten(1) @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert similarity_preserving_loss(features, turned) == pytest.approx(0.0, abs=1e-10)
    assert similarity_preserving_loss(features, features) == 0.0
    assert similarity_preserving_loss(features, torch.zeros(6, 5)) == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="the same samples"):
        similarity_preserving_loss(features, features[:5])
