"""Initial weights: nothing stays random in silence, and no file runs code."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from workers.jobs.spec import ModelSpec
from workers.settings import Settings
from workers.training.errors import ConfigInvalid
from workers.training.models import TaskInfo, build
from workers.training.models.weights import read_tensors

TASK = TaskInfo("image", 5, (1, 28, 28))


def data_dir(settings: Settings) -> Path:
    assert settings.data_dir is not None
    return settings.data_dir


def test_weights_come_from_safetensors_and_a_head_of_other_classes_starts_fresh(local: Settings) -> None:
    source = build(ModelSpec(name="vgg-small"), TASK, local, seed=1)
    save_file(source.state_dict(), data_dir(local) / "w.safetensors")
    same = build(ModelSpec(name="vgg-small", path="w.safetensors"), TASK, local, seed=2)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in source.state_dict().items())
    fewer = build(ModelSpec(name="vgg-small", path="w.safetensors"), TaskInfo("image", 3, (1, 28, 28)), local, seed=2)
    assert fewer.state_dict()["head.weight"].shape[0] == 3
    assert torch.equal(fewer.state_dict()["stages.0.0.weight"], source.state_dict()["stages.0.0.weight"])


def test_a_torch_file_of_tensors_is_read(local: Settings) -> None:
    source = build(ModelSpec(name="resnet-small"), TASK, local, seed=1)
    torch.save(source.state_dict(), data_dir(local) / "w.pt")
    same = build(ModelSpec(name="resnet-small", path="w.pt"), TASK, local, seed=2)
    assert torch.equal(same.state_dict()["head.weight"], source.state_dict()["head.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("stem.0.weight"), r"1 missing \(stem\.0\.weight\)"),
        (lambda state: state.update(extra=torch.ones(1)), r"1 not in the model \(extra\)"),
        (lambda state: state.update({"stem.0.weight": torch.ones(2)}), r"1 of another shape \(stem\.0\.weight\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, says: str, local: Settings) -> None:
    state = dict(build(ModelSpec(name="resnet-small"), TASK, local).state_dict())
    change(state)
    save_file(state, data_dir(local) / "w.safetensors")
    with pytest.raises(ConfigInvalid, match=says):
        build(ModelSpec(name="resnet-small", path="w.safetensors"), TASK, local)


class Harmful:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": Harmful(tmp_path / "made")}, path)
    with pytest.raises(ConfigInvalid, match="more than tensors"):
        read_tensors(path)
    assert not (tmp_path / "made").exists()
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "made"), protocol=2))
    with pytest.raises(ConfigInvalid):
        read_tensors(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_damaged_or_missing_file_is_a_config_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no weights file"):
        read_tensors(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x80\x02not weights at all")
    with pytest.raises(ConfigInvalid):
        read_tensors(tmp_path / name)


def test_a_path_out_of_the_data_directory_is_refused(local: Settings, tmp_path: Path) -> None:
    save_file(dict(build(ModelSpec(name="resnet-small"), TASK, local).state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(ConfigInvalid, match="leads out"):
        build(ModelSpec(name="resnet-small", path="../w.safetensors"), TASK, local)
