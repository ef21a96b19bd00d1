"""Where the optimizer state of frozen units is, and that no bit of it is lost on the way."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.apply import Applier
from freezer.moments import Moments
from freezer.units import discover
from tests.unit.freezer.toys import ResNet, images

OPTIMIZERS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.AdamW, {"foreach": True}),
]
FROZEN = ["conv", "layer1.0.conv1"]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()


def made(spill: Path | None, kind: Any = torch.optim.AdamW, **options: Any) -> tuple[ResNet, Any, Applier]:
    torch.manual_seed(7)
    model = ResNet().to(memory_format=torch.channels_last)  # moments take the weights' strides
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    return model, optimizer, Applier(model, discover(model, (images(),), {}, "layer"), optimizer, spill=spill)


def moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim()]


def equal(a: Any, b: Any) -> bool:
    """Values, strides and keys of two optimizer states."""
    first, second = a["state"], b["state"]
    return first.keys() == second.keys() and all(
        first[i].keys() == second[i].keys()
        and all(
            not isinstance(v, Tensor) or (torch.equal(v, second[i][k]) and v.stride() == second[i][k].stride())
            for k, v in first[i].items()
        )
        for i in first
    )


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_training_with_parked_moments_is_bit_for_bit_training_without(
    kind: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    ends = []
    for spill in (None, tmp_path):
        model, optimizer, applier = made(spill, kind, **options)
        train(model, optimizer, 2)
        before = copy.deepcopy(optimizer.state_dict())
        applier.apply(FROZEN)
        assert bool(applier.moments.parked_bytes) is (spill is not None)
        assert equal(optimizer.state_dict(), before), "parked: same keys, bits and strides"
        train(model, optimizer, 2, seed=1)
        applier.apply(FROZEN[:1])
        train(model, optimizer, 2, seed=2)
        applier.apply([])
        assert not applier.moments.parked_bytes
        train(model, optimizer, 2, seed=3)
        ends.append((model.state_dict(), optimizer.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0].values(), ends[1][0].values(), strict=True))
    assert equal(ends[0][1], ends[1][1])


def test_units_frozen_from_the_start_can_be_thawed_under_fused_sgd() -> None:
    weights = {}
    for fused in (True, False):
        model, optimizer, applier = made(None, torch.optim.SGD, momentum=0.9, fused=fused)
        applier.apply(FROZEN)
        train(model, optimizer, 2)
        applier.apply(FROZEN[:1])  # torch refuses a fused update where some have momentum and some have none
        train(model, optimizer, 2)
        applier.apply([])
        train(model, optimizer, 2)
        weights[fused] = [p.detach().clone() for p in model.parameters()]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights[True], weights[False], strict=True))


def test_exactly_the_frozen_units_state_is_away_and_steps_stay(tmp_path: Path) -> None:
    model, optimizer, applier = made(tmp_path)
    train(model, optimizer, 1)
    steps = {id(s["step"]) for s in optimizer.state.values()}
    applier.apply(FROZEN)
    frozen = [p for unit in FROZEN for n, p in model.named_parameters() if n in applier.units[unit].params]
    assert applier.moments.parked_bytes == sum(2 * p.nbytes for p in frozen)
    assert applier.moments.units == set(FROZEN)
    assert {id(s["step"]) for s in optimizer.state.values()} == steps
    assert not list(tmp_path.iterdir()), "the files have no names, so that nothing is left of a killed run"
    away = {optimizer.state[p][key].untyped_storage().data_ptr() for p in frozen for key in ("exp_avg", "exp_avg_sq")}
    assert len(away) == len(FROZEN), "one map for each unit"


def test_state_of_two_element_types_in_one_unit_can_be_saved_while_it_is_parked(tmp_path: Path) -> None:
    half, norm, empty = (
        nn.Parameter(torch.randn(4, 3, dtype=torch.bfloat16)),
        nn.Parameter(torch.randn(5)),
        nn.Parameter(torch.ones(0, 2, dtype=torch.float16)),  # asks for no file, so not for one of no bytes
    )
    optimizer = torch.optim.AdamW([half, norm, empty])
    for p in (half, norm, empty):
        p.grad = torch.randn_like(p)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    parking = Moments(optimizer, tmp_path)
    parking.park({"u": [half, norm, empty]})
    assert parking.parked_bytes == 2 * (half.nbytes + norm.nbytes)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    assert equal(torch.load(tmp_path / "state.pt"), before)
    parking.park({})
    assert equal(optimizer.state_dict(), before)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_loaded_state_replaces_what_was_parked_and_is_parked_at_the_next_event(tmp_path: Path, frozen: bool) -> None:
    model, optimizer, applier = made(tmp_path)
    train(model, optimizer, 1)
    applier.apply(FROZEN)
    parked = applier.moments.parked_bytes
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    train(model, optimizer, 1)
    saved = torch.load(tmp_path / "state.pt")
    for state in saved["state"].values():
        state["exp_avg"].add_(1)  # tell the loaded one from the parked one
    loaded = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    assert not applier.moments.parked_bytes
    applier.apply(FROZEN if frozen else [])
    assert applier.moments.parked_bytes == (parked if frozen else 0)
    assert equal(optimizer.state_dict(), loaded)


def test_state_that_appears_later_and_state_of_another_shape(tmp_path: Path) -> None:
    weight, factored, scalar = (
        nn.Parameter(torch.ones(4, 3)),
        nn.Parameter(torch.ones(4, 3)),
        nn.Parameter(torch.ones(())),
    )
    optimizer = torch.optim.SGD([weight, factored, scalar], 0.1, momentum=0.9)
    parking = Moments(optimizer, tmp_path)
    unit = {"u": [weight, factored, scalar]}
    parking.park(unit)
    assert not parking.units
    assert not optimizer.state, "looking makes no entries"
    for p in unit["u"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state[factored]["momentum_buffer"] = torch.ones(4)
    parking.park(unit)
    assert parking.parked_bytes == weight.nbytes
    optimizer.state[weight]["other"] = torch.full((3, 4), 2.0).t()
    parking.park(unit)
    assert parking.parked_bytes == 2 * weight.nbytes
    parking.park({})
    assert torch.equal(optimizer.state[weight]["other"], torch.full((4, 3), 2.0))


def test_a_disk_that_takes_nothing_costs_a_warning_not_the_run(tmp_path: Path) -> None:
    model, optimizer, applier = made(tmp_path / "no such folder")
    train(model, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.warns(RuntimeWarning, match="stays in memory"):
        applier.apply(FROZEN)
    assert not applier.moments.parked_bytes
    assert equal(optimizer.state_dict(), before)


ANONYMOUS = """
import sys, torch
from pathlib import Path
from torch import nn
from freezer.moments import Moments
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith("Anonymous:")) * 1024
weight = nn.Parameter(torch.zeros(12_000_000))  # 48 MB: above what malloc keeps for itself
optimizer = torch.optim.AdamW([weight])
weight.grad = torch.ones_like(weight)
optimizer.step()
weight.grad = None
moments = Moments(optimizer, Path(sys.argv[1]))
before = anonymous()
moments.park({"u": [weight]})
away = anonymous()
moments.park({})
print(before - away, anonymous() - away, 2 * weight.nbytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the kernel does not tell")
def test_anonymous_memory_really_shrinks_by_the_moments_and_grows_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ANONYMOUS, str(tmp_path)]  # a process of its own: nobody else allocates
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    given, taken, expected = map(int, done.stdout.split())
    assert given == pytest.approx(expected, rel=0.05)
    assert taken == pytest.approx(expected, rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_on_an_accelerator_moments_go_to_the_host_and_back() -> None:
    weight = nn.Parameter(torch.randn(64, 64, device="cuda"))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    before = copy.deepcopy(optimizer.state[weight])
    moments = Moments(optimizer)
    moments.park({"u": [weight]})
    assert optimizer.state[weight]["exp_avg"].device.type == "cpu"
    moments.park({})
    assert optimizer.state[weight]["exp_avg"].device == weight.device
    assert all(torch.equal(optimizer.state[weight][k], before[k]) for k in before)
