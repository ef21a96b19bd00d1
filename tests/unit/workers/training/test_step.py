from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import nn

from freezer.proxy import ModelProxy
from workers.training.batch import Batch
from workers.training.step import train_step

CPU = torch.device("cpu")


def proxy(model: nn.Module) -> ModelProxy:
    return ModelProxy(model, lambda *_: nullcontext())


def batch(n: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator))


def test_accumulation_is_one_big_batch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    other = copy.deepcopy(model)
    whole = batch(12)
    parts = [Batch(x, y) for x, y in zip(whole.inputs.split(4), whole.labels.split(4), strict=True)]  # type: ignore[union-attr]
    losses = []
    for net, batches in ((model, [whole]), (other, parts)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        losses.append(train_step(proxy(net), optimizer, batches, device=CPU))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(model.weight, other.weight)


def test_gradients_do_not_pile_up_over_steps() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gradients = []
    for _ in range(2):
        train_step(proxy(model), optimizer, [batch(6)], device=CPU)
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])


def test_clipping_bounds_the_update() -> None:
    model = nn.Linear(4, 3)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train_step(proxy(model), optimizer, [batch(6)], device=CPU, grad_clip=1e-3)
    moved = torch.stack([(a - b.detach()).norm() for a, b in zip(before, model.parameters(), strict=True)]).norm()
    assert 0 < float(moved) < 1.01e-3


def test_bf16_keeps_weights_and_loss_in_fp32() -> None:
    model = nn.Linear(4, 3)
    loss = train_step(proxy(model), torch.optim.SGD(model.parameters(), lr=0.1), [batch(6)], device=CPU, bf16=True)
    assert loss.dtype == model.weight.dtype == torch.float32


def test_dict_inputs_go_in_by_name() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, *, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(left - right)
            return out

    model = Pair()
    inputs = {"left": torch.ones(2, 4), "right": torch.zeros(2, 4)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = train_step(proxy(model), optimizer, [Batch(inputs, torch.tensor([0, 1]))], device=CPU)
    assert first.isfinite()
