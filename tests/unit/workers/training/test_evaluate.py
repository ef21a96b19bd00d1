from __future__ import annotations

import pytest
import torch
from torch import nn

from workers.training.batch import Batch
from workers.training.evaluate import evaluate
from workers.training.process_group import Ranks


class Echo(nn.Module):
    """Logits are the inputs; notes the samples it saw and the mode it was in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return x


class Known:
    """``n`` samples of 4 classes; every fifth is wrong."""

    def __init__(self, n: int) -> None:
        self.labels = torch.arange(n) % 4
        said = torch.where(torch.arange(n) % 5 == 0, (self.labels + 1) % 4, self.labels)
        self.logits = 2.0 * nn.functional.one_hot(said, 4)
        self.seen: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> Batch:
        self.seen += indices.tolist()
        return Batch(self.logits[indices], self.labels[indices])


@pytest.mark.parametrize(("samples", "batch_size"), [(13, 4), (12, 4), (3, 100)])
def test_every_sample_counts_once(samples: int, batch_size: int) -> None:
    data, model, calls = Known(samples), Echo(), []
    score = evaluate(
        model,
        data,
        Ranks(rank=0, world=1, device=torch.device("cpu")),
        batch_size=batch_size,
        between=lambda done, of: calls.append((done, of)),
    )
    assert sorted(data.seen) == list(range(samples))
    wrong = len(range(0, samples, 5))
    assert score.samples == samples
    assert score.accuracy == pytest.approx((samples - wrong) / samples)
    expected = nn.functional.cross_entropy(data.logits.float(), data.labels)
    assert score.loss == pytest.approx(float(expected), rel=1e-6)
    assert not any(model.modes)
    rounds = -(-samples // batch_size)
    assert calls == [(n, rounds) for n in range(1, rounds + 1)]
