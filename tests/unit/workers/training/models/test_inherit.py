"""A model that starts from another job's weights: all of them, none in silence, only the head may differ."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from workers.jobs.layout import JobFiles
from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.errors import ConfigInvalid
from workers.training.models import TaskInfo, build, inherit
from workers.training.models.inherit import head_names

JOB = "job_000000000010000000000"
SPEC = ModelSpec(name="resnet-small", options={"width": 4}, init_from=JOB)


def trained(home: Path, model: nn.Module, fence: int = 1, drop: str = "") -> dict[str, torch.Tensor]:
    """Leave the weights of ``model`` as an attempt of the job does."""
    files = JobFiles(home, JOB).attempt(fence)
    files.artifacts.mkdir(parents=True)
    state = {name: value.clone() for name, value in model.state_dict().items() if name != drop}
    save_file(state, files.weights)
    return state


def network(settings: Settings, classes: int = 5, seed: int = 0, **options: int) -> nn.Module:
    spec = SPEC.model_copy(update={"options": SPEC.options | options})
    return build(spec, TaskInfo("image", classes, (1, 28, 28)), settings, seed=seed)


def test_every_tensor_is_that_of_the_newest_attempt(local: Settings) -> None:
    trained(local.home, network(local, seed=1), fence=1)
    state = trained(local.home, network(local, seed=2), fence=2)
    (JobFiles(local.home, JOB).attempt(3).artifacts).mkdir(parents=True)  # died before it wrote any
    model = network(local, seed=3)
    found = inherit(model, JOB, local.home)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []
    assert found.to_dict() == {"job_id": JOB, "tensors": len(state), "fresh": []}


def test_a_head_of_another_shape_stays_fresh_and_whole(local: Settings) -> None:
    state = trained(local.home, network(local, classes=5, seed=1))
    model = network(local, classes=7, seed=2)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    found = inherit(model, JOB, local.home)
    assert found.fresh == ("head.weight", "head.bias")
    assert found.tensors == len(state) - 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, (fresh if name in found.fresh else state)[name]), name


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"depth": 2}, r"model\.init_from: .*job_0+1\d* do not fit.*missing \(blocks\.3\.bn1"),
        ({"width": 8}, r"of another shape \(blocks\.0\.bn1\.bias"),
    ],
)
def test_another_network_is_refused_by_the_names_of_its_tensors(
    made: dict[str, int], says: str, local: Settings
) -> None:
    trained(local.home, network(local))
    model = network(local, **made)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigInvalid, match=says) as caught:
        inherit(model, JOB, local.home)
    assert caught.value.reason == "config_invalid"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_without_a_head_is_refused(local: Settings) -> None:
    trained(local.home, network(local), drop="head.bias")
    with pytest.raises(ConfigInvalid, match=r"1 missing \(head\.bias\)"):
        inherit(network(local), JOB, local.home)


def test_weights_that_are_gone_are_a_final_error(local: Settings) -> None:
    with pytest.raises(ConfigInvalid, match=f"job {JOB} has no trained weights.*train it again") as caught:
        inherit(network(local), JOB, local.home)
    assert caught.value.reason == "config_invalid"


def test_the_head_of_other_networks_is_their_last_module() -> None:
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Softplus())
    assert head_names(plain) == ["2.weight", "2.bias"]
    assert head_names(nn.Flatten()) == []


def test_pretrained_weights_are_not_looked_for(local: Settings, tmp_path: Path) -> None:
    bare = local.model_copy(update={"packages_dir": tmp_path / "none"})
    build(ModelSpec(name="efficientnet-lite0", init_from=JOB), TaskInfo("image", 2, (3, 32, 32)), bare)
