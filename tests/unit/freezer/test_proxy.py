"""What users do with the model that they are given, besides calling it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.freezer import Freezer


def attached() -> tuple[nn.Module, torch.optim.Optimizer, Freezer]:
    """A small network whose first layer is frozen from the first step on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
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
