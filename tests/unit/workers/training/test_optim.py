from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from workers.jobs.spec import LrScheduleSpec, OptimizerSpec
from workers.training.optim import clip, lr_factor, make_optimizer, set_lr


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_every_parameter_is_held_once_and_only_matrices_decay(name: str, kind: type) -> None:
    net = model()
    optimizer = make_optimizer(net, OptimizerSpec(name=name, lr=0.1, weight_decay=0.3))  # type: ignore[arg-type]
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(net.parameters()))
    assert all(decay[id(p)] == (0.3 if p.ndim == 2 else 0.0) for p in net.parameters())


def test_warm_up_then_cosine() -> None:
    spec = LrScheduleSpec(name="cosine", warmup_ratio=0.1)
    factors = [lr_factor(spec, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.01


def test_linear_and_constant() -> None:
    assert lr_factor(LrScheduleSpec(name="linear"), 25, 100) == 0.75
    assert lr_factor(LrScheduleSpec(name="constant"), 99, 100) == 1.0


def test_set_lr_reaches_every_group() -> None:
    optimizer = make_optimizer(model(), OptimizerSpec(lr=0.1))
    set_lr(optimizer, 0.02)
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}


def test_clip_bounds_the_norm_over_what_has_a_gradient() -> None:
    net = model()
    optimizer = make_optimizer(net, OptimizerSpec(lr=0.1))
    for parameter in list(net.parameters())[2:]:
        parameter.grad = torch.full_like(parameter, 5.0)
    clip(optimizer, 1.0)
    norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1.0, rel=1e-4)
