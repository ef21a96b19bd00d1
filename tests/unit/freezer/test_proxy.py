"""What users do with the model that they are given, besides calling it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.freezer import Freezer


def attached(model: nn.Module | None = None) -> tuple[nn.Module, torch.optim.Optimizer, Freezer]:
    """A small network whose first layer is frozen from the first step on."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = FreezeConfig(policy="static", options={"first": 1})
    return model, optimizer, Freezer(model, optimizer, config, total_steps=20)


def train(freezer: Freezer, optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 4)).sum().backward()
        optimizer.step()
        freezer.step()


def test_averaged_weights_follow_the_model() -> None:
    model, optimizer, freezer = attached()
    train(freezer, optimizer, freezer.model)
    averaged = AveragedModel(freezer.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(freezer.model)
    before = copy.deepcopy(averaged.module.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    train(freezer, optimizer, freezer.model)
    averaged.update_parameters(freezer.model)
    for name, value in averaged.module.state_dict().items():
        torch.testing.assert_close(value, (before[name] + model.state_dict()[name]) / 2)
    freezer.close()


def test_a_copy_is_the_bare_model_and_nobodys_to_freeze() -> None:
    model, optimizer, freezer = attached()
    train(freezer, optimizer, freezer.model)
    copied = copy.deepcopy(freezer.model)
    assert type(copied) is type(model)
    copied.requires_grad_(True)
    copied(torch.randn(2, 4)).sum().backward()
    train(freezer, optimizer, freezer.model)
    freezer.close()


def test_compiling_it_is_refused() -> None:
    _, optimizer, freezer = attached()
    with pytest.raises(ConfigError, match=r"torch\.compile is not supported yet"):
        train(freezer, optimizer, torch.compile(freezer.model, backend="eager"))  # type: ignore[arg-type]
    freezer.close()


class Scaled(nn.Module):
    """An attribute that users set, and a frozen norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu()) * self.scale


def test_attributes_are_set_where_the_model_finds_them() -> None:
    _, optimizer, freezer = attached(Scaled())
    batch = torch.randn(4, 4)
    once = freezer.model(batch)
    freezer.model.scale = 2.0
    assert torch.equal(freezer.model(batch), 2.0 * once)
    freezer.model.scale += 1.0
    assert freezer.model.scale == freezer.model.module.scale == 3.0
    train(freezer, optimizer, freezer.model)
    freezer.close()


def to_file_and_back(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("take", [copy.deepcopy, to_file_and_back])
@pytest.mark.parametrize("proxy", [True, False])
def test_a_copy_taken_between_any_two_steps_is_the_bare_model_wide_awake(take: Any, proxy: bool) -> None:
    """Right after a change too, when the first update that follows is still to be guarded."""
    model, optimizer, freezer = attached(Scaled())
    for _ in range(3):
        freezer.model(torch.randn(4, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        copied = take(freezer.model if proxy else model)
        assert type(copied) is Scaled
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))
        freezer.freeze(["first"]) if "first" not in freezer.plan.frozen else freezer.thaw()
        again = take(freezer.model if proxy else model)
        update_bn([torch.randn(8, 4) + 5.0], again)  # resets the statistics, then counts on every norm to train
        assert again.norm.running_mean.ne(0.0).all()
        assert model.norm.running_mean.ne(again.norm.running_mean).all()
    freezer.close()
