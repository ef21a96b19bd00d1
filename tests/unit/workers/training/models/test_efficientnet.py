"""EfficientNet-Lite0: the network, the real weights in it, and how it freezes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from freezer.config import FreezeConfig
from freezer.freezer import Freezer
from workers.jobs.catalog import MODELS
from workers.jobs.spec import DataSpec, ModelSpec
from workers.settings import Settings
from workers.training.datasets import load
from workers.training.errors import ConfigInvalid
from workers.training.models import TaskInfo, build, forward
from workers.training.models.efficientnet import PACKAGE, WEIGHTS, SameConv2d, own_name
from workers.training.models.weights import read_tensors

SPEC = ModelSpec(name="efficientnet-lite0")
FRESH = ModelSpec(name="efficientnet-lite0", pretrained=False)
TASK = TaskInfo("image", 10, (3, 32, 32))


@pytest.fixture
def package(need: Callable[[str], Path]) -> Path:
    return need(PACKAGE)


def steady(task: TaskInfo, settings: Settings, spec: ModelSpec = SPEC) -> nn.Module:
    return build(spec, task, settings).eval()


def picture(side: int) -> Tensor:
    """One image of colour ramps, pixels of 0 to 255, scaled as the network wants it."""
    ramp = torch.linspace(0.0, 255.0, side)
    image = torch.stack([ramp.view(-1, 1).expand(side, side), ramp.expand(side, side), 255.0 - ramp.expand(side, side)])
    return ((image - 127.0) / 128.0).unsqueeze(0)


def test_every_tensor_of_the_file_is_in_the_network(package: Path, local: Settings) -> None:
    stored = read_tensors(package / WEIGHTS)
    own = steady(TaskInfo("image", 1000, (3, 32, 32)), local).state_dict()
    assert sorted(map(own_name, stored)) == sorted(own)
    assert [name for name, value in stored.items() if not torch.equal(own[own_name(name)], value)] == []


def test_with_other_classes_the_head_alone_is_fresh(package: Path, local: Settings) -> None:
    stored = read_tensors(package / WEIGHTS)
    model = steady(TASK, local)
    own = model.state_dict()
    other = {name for name, value in stored.items() if not torch.equal(own[own_name(name)], value)}
    assert {own_name(name) for name in other} == {"head.weight", "head.bias"}
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[SPEC.name].parameters


def test_the_logits_are_those_of_another_implementation(package: Path, local: Settings) -> None:
    """Values: the class of the PyPI package efficientnet-lite-pytorch 0.1.0 on the same file and input."""
    with torch.no_grad():
        logits = forward(steady(TaskInfo("image", 1000, (3, 64, 64)), local), picture(64)).squeeze(0)
    expected = torch.tensor([0.3673, 4.5196, 0.6940, 3.9741, -1.2904])
    torch.testing.assert_close(logits[[0, 1, 500, 998, 999]], expected, atol=1e-3, rtol=0)
    values, indices = logits.topk(3)
    assert indices.tolist() == [470, 626, 818]
    torch.testing.assert_close(values, torch.tensor([20.3854, 16.8850, 15.7785]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("side", "kernel", "border"), [(8, 3, (0, 1)), (7, 3, (1, 1)), (8, 5, (1, 2)), (7, 5, (2, 2))])
def test_strides_are_padded_as_the_weights_expect(side: int, kernel: int, border: tuple[int, int]) -> None:
    convolution = SameConv2d(2, 2, kernel, stride=2)
    x = torch.randn(1, 2, side, side)
    padded = nn.functional.pad(x, border * 2)
    expected = nn.functional.conv2d(padded, convolution.weight, stride=2)
    assert torch.equal(convolution(x), expected)
    assert expected.shape[2:] == (-(-side // 2),) * 2


def test_images_reach_it_scaled_as_its_weights_expect(need: Callable[[str], Path], local: Settings) -> None:
    need("mnist5k")
    spec = DataSpec(name="mnist5k", train_size=50, test_size=10, options={"channels": 3})
    plain, scaled = (load(spec, local, ModelSpec(name=name)).train for name in ("resnet-small", SPEC.name))
    assert torch.equal(plain.inputs, scaled.inputs)  # type: ignore[arg-type]
    inputs = scaled.batch(torch.arange(50)).inputs
    assert isinstance(inputs, Tensor)
    assert (float(inputs.min()), float(inputs.max())) == (-127 / 128, 1.0)


def test_grey_images_are_refused_with_the_option_that_helps(local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=r"set data\.options\.channels to 3"):
        build(FRESH, TaskInfo("image", 10, (1, 28, 28)), local)


def test_it_freezes_block_by_block_and_passes_start_behind_the_frozen_ones(local: Settings) -> None:
    model = build(FRESH, TASK, local)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = FreezeConfig(policy="static", unit="block", options={"first": 13}, cache_ram_mib=64)
    freezer = Freezer(model, optimizer, config=config, total_steps=40, samples=8)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(12):
        ids = torch.arange(4) + 4 * (step % 2)
        with freezer.batch(ids):
            loss = nn.functional.cross_entropy(forward(freezer.model, images[ids]), labels[ids])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
    assert [unit.name for unit in freezer.units] == ["stem", *(f"blocks.{i}" for i in range(16)), "head"]
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    frozen = ("stem.", *(f"blocks.{i}." for i in range(12)))
    assert still == {name for name in before if name.startswith(frozen)}
    cache = freezer.report()["cache"]
    freezer.close()
    assert cache["cut"] == "blocks.11"
