"""Sampling: the same weights at every snapshot, whatever the size of the unit."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import nn

from freezer.errors import UnitError
from freezer.trajectory import Sampler, indices_of, rows_of
from freezer.units import discover


def values(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def model_and_units() -> tuple[nn.Module, list]:  # type: ignore[type-arg]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Linear(50, 2), nn.Linear(2, 2))
    return model, discover(model, (torch.randn(3, 40),), {}, "layer")


def test_the_same_weights_are_sampled_every_time_and_in_every_process() -> None:
    model, units = model_and_units()
    one, two = Sampler(units, model, 64, seed=5), Sampler(units, model, 64, seed=5)
    before = values(one.sample(["0"])["0"])
    assert values(two.sample(["0"])["0"]) == before
    with torch.no_grad():
        model[0].weight += 1.0  # type: ignore[operator,union-attr]
    after = values(one.sample(["0"])["0"])
    assert after == pytest.approx([v + 1.0 for v in before])


def test_values_are_weights_of_the_matrices_alone() -> None:
    model, units = model_and_units()
    with torch.no_grad():
        model[0].bias.fill_(99.0)  # type: ignore[union-attr,operator]
        model[1].weight.fill_(99.0)  # type: ignore[union-attr,operator]
    sampled = values(Sampler(units, model, 256, seed=0).sample(["0"])["0"])
    assert set(sampled) <= set(model[0].weight.flatten().tolist())  # type: ignore[union-attr,operator]


def test_small_units_are_tiled_to_the_same_length() -> None:
    model, units = model_and_units()
    sampled = values(Sampler(units, model, 64, seed=0).sample(["3"])["3"])
    assert len(sampled) == 64
    weights = model[3].weight.flatten().tolist()  # type: ignore[union-attr,operator]
    assert sampled == [w for w in weights for _ in range(16)]


def test_a_unit_without_matrices_is_sampled_over_all_its_parameters() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.ReLU())
    units = discover(model, (torch.randn(2, 4),), {}, "layer")
    assert set(values(Sampler(units, model, 16, seed=0).sample(["0"])["0"])) == {0.0, 1.0}


def test_seed_and_name_choose_the_indices() -> None:
    model, units = model_and_units()
    zero, one = (Sampler(units, model, 64, seed=s).sample(["0", "2"]) for s in (0, 1))
    assert zero["0"] != one["0"]
    assert not torch.equal(indices_of(2000, 64, 1), indices_of(2000, 64, 2))


@pytest.mark.parametrize("total", [10, 2000])
def test_indices_are_drawn_on_the_host_whatever_the_default_device_is(total: int) -> None:
    before = indices_of(total, 64, 1)
    with torch.device("meta"):
        assert torch.equal(indices_of(total, 64, 1).to("cpu"), before)


def test_one_call_gives_each_unit_its_own_values() -> None:
    model, units = model_and_units()
    sampler = Sampler(units, model, 64, seed=0)
    together = sampler.sample(["2", "0", "3"])
    assert together == {**sampler.sample(["0"]), **sampler.sample(["2"]), **sampler.sample(["3"])}
    assert sampler.sample([]) == {}


def test_low_precision_comes_as_float32() -> None:
    model, units = model_and_units()
    model.to(torch.bfloat16)
    sampled = values(Sampler(units, model, 64, seed=0).sample(["0"])["0"])
    assert set(sampled) <= set(model[0].weight.float().flatten().tolist())  # type: ignore[union-attr,operator]


def test_unknown_unit_is_an_error() -> None:
    model, units = model_and_units()
    with pytest.raises(UnitError, match="nonsense"):
        Sampler(units, model, 64, seed=0).sample(["nonsense"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_are_counted_in_logical_order_whatever_their_layout(dtype, layout) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 5), nn.Conv2d(40, 2, 1))
    units = discover(model, (torch.randn(1, 3, 9, 9),), {}, "layer")
    sampler = Sampler(units, model.to(dtype=dtype, memory_format=layout), 64, seed=0)
    expected = [torch.take(p, i).float().tolist() for n in ("0", "1") for p, i in sampler._plan[n]]
    assert [values(row) for row in sampler.sample(["0", "1"]).values()] == expected


def test_gather_fills_what_it_is_given() -> None:
    model, units = model_and_units()
    sampler = Sampler(units, model, 64, seed=0)
    block = torch.full((2, 64), float("nan"))
    sampler.gather(["2", "0"], block)
    assert rows_of(["2", "0"], block) == sampler.sample(["2", "0"])
    assert sampler.parameters(["2", "0"]) == [model[2].weight, model[0].weight]
    with pytest.raises(UnitError, match="nonsense"):
        sampler.gather(["0", "nonsense"], block)


def test_of_complex_weights_both_parts_are_sampled() -> None:
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.cfloat), nn.Linear(4, 4, dtype=torch.cfloat))
    units = discover(model, (torch.randn(2, 4, dtype=torch.cfloat),), {}, "layer")
    sampled = values(Sampler(units, model, 32, seed=0).sample(["0"])["0"])
    assert sampled == torch.view_as_real(model[0].weight).flatten().tolist()  # type: ignore[arg-type]
