"""Which parameters a pass uses: by the modules that run, and by the graph of what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freezer.reach import exercised, reached
from tests.unit.freezer.toys import Auxiliary, Transformer, tokens


def names(model: nn.Module, ids: set[int]) -> set[str]:
    return {name for name, p in model.named_parameters() if id(p) in ids}


def used(model: nn.Module, *args: Any) -> set[str]:
    with exercised(model) as seen:
        model(*args)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules()), "no hook is left behind"
    return names(model, seen)


class Attending(nn.Module):
    """Attention reads its output layer's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class Reentrant(nn.Module):
    """The graph does not lead into a reentrant checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.inner, x.requires_grad_(), use_reentrant=True)
        return result


class Regularised(nn.Module):
    """What it computes with ``side`` is kept, not returned."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.penalty = self.side(x).square().mean()
        result: Tensor = self.main(x)
        return result


@pytest.mark.parametrize("kind", [Attending, Reentrant, Regularised, Auxiliary])
def test_everything_that_takes_part_is_seen(kind: type[nn.Module]) -> None:
    model = kind()
    assert used(model, torch.randn(2, 3, 4)) == set(dict(model.named_parameters()))


def test_what_takes_no_part_is_not() -> None:
    assert used(Auxiliary().eval(), torch.randn(2, 4)) == {
        f"{layer}.{part}" for layer in ("first", "second", "head") for part in ("weight", "bias")
    }
    assert not any(name.startswith("pool") for name in used(Transformer(unused=True), tokens()))


def test_outputs_may_be_nested_and_share_their_graph() -> None:
    one, two, three = (nn.Linear(3, 3) for _ in range(3))
    x = F.relu(one(torch.randn(2, 3)))
    ids = reached({"a": [two(x), x], "b": (x.detach(), "text"), "c": three(x).detach()})
    assert ids == {id(p) for layer in (one, two) for p in layer.parameters()}
