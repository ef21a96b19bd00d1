from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from freezer.errors import ConfigError
from tests.conftest import StoreUrl
from workers._redis import Driver
from workers.jobs.layout import AttemptSpec, JobFiles
from workers.jobs.spec import JobSpec
from workers.settings import Settings
from workers.training.errors import CodeError, ConfigInvalid
from workers.training.process_group import Ranks
from workers.training.run import Run, _windows, freeze_config, prepare, step_plan, use_bf16
from workers.window_store import WriteBehindWindows

CODE = Path(__file__).parents[3] / "support"
WEIGHTS = Path(__file__).parents[4] / "freezer" / "predictor" / "weights"
ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


def made(home: Path, training: dict[str, Any] | None = None, **parts: dict[str, Any]) -> Run:
    values = {
        "name": "blobs",
        "model": {"name": "code", "entry": "training_code.py:model", "options": parts.get("model", {})},
        "data": {"name": "code", "entry": "training_code.py:blobs", "options": parts.get("data", {})},
        "training": {"epochs": 2, "batch_size": 20} | (training or {}),
        "freeze": parts.get("freeze", {"policy": "none"}),
    }
    return prepared(values, home, CODE)


def prepared(values: dict[str, Any], home: Path, code: Path) -> Run:
    spec = JobSpec.model_validate(values)
    attempt = AttemptSpec(job_id="j", fence=1, attempt=1, spec=spec, home=str(home), worker_id="w", device="cpu")
    files = JobFiles(home, "j").attempt(1)
    return prepare(attempt, files, ALONE, Settings(home=home, code_dir=code, redis_url=None, window_redis_url=None))


def test_a_run_is_the_same_each_time(tmp_path: Path) -> None:
    runs = [made(tmp_path) for _ in range(2)]
    for run in runs:
        run.prepare_freezer()
        run.seed_rank()
    assert runs[0].total_steps == 20
    first, second = (list(run.model.parameters()) for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    batches = [run.batches(7)[0] for run in runs]
    assert torch.equal(batches[0].labels, batches[1].labels)
    assert len(runs[0].freezer.units) == 4


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"training": {"batch_size": 500}}, ConfigInvalid, "training set has 203"),
        ({"training": {"early_stop": {"patience": 1}}}, ConfigInvalid, "data.validation_ratio"),
        ({"freeze": {"policy": "smartfrz", "window": 900}}, ConfigError, "a window of 900"),
        ({"model": {"raises": True}}, CodeError, "this network cannot be built"),
        ({"data": {"samples": "many"}}, CodeError, "training_code.py"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(tmp_path, **changes)


def test_a_model_with_the_wrong_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("from torch import nn\ndef model(num_classes): return nn.Linear(8, 7)\n")
    (tmp_path / "training_code.py").write_text((CODE / "training_code.py").read_text())
    values = {
        "name": "wrong",
        "model": {"name": "code", "entry": "wrong.py:model"},
        "data": {"name": "code", "entry": "training_code.py:blobs"},
        "freeze": {"policy": "none"},
    }
    with pytest.raises(ConfigInvalid, match="3 classes"):
        prepared(values, tmp_path, tmp_path)


def test_predictor_weights_are_read_from_the_operators_directory_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.safetensors").symlink_to(WEIGHTS / "progress-only.safetensors")
    settings = Settings(home=tmp_path, data_dir=data, redis_url=None, window_redis_url=None)
    for path in ("../outside.safetensors", str(WEIGHTS / "progress-only.safetensors"), "link.safetensors"):
        with pytest.raises(ConfigInvalid, match=r"/freeze/options/weights: .* leads out"):
            freeze_config(weighted(path), settings)
    with pytest.raises(ConfigError, match="no file 'absent"):
        freeze_config(weighted("absent.safetensors"), settings)
    shutil.copy(WEIGHTS / "progress-only.safetensors", data / "mine.safetensors")
    assert freeze_config(weighted("mine.safetensors"), settings).options == {"weights": str(data / "mine.safetensors")}


def test_a_run_confines_the_weights_that_it_loads(tmp_path: Path) -> None:
    freeze = {
        "policy": "progress-only",
        "window": 2,
        "options": {"weights": str(WEIGHTS / "progress-only.safetensors")},
    }
    with pytest.raises(ConfigError, match="SMARTFRZ_DATA_DIR"):
        made(tmp_path, freeze=freeze)


def test_trajectories_live_for_an_hour_after_what_is_recorded_last(tmp_path: Path, store_url: StoreUrl) -> None:
    spec = weighted("none")
    attempt = AttemptSpec(job_id="j", fence=1, attempt=1, spec=spec, home=str(tmp_path), worker_id="w", device="cpu")
    settings = Settings(home=tmp_path, redis_url=None, window_redis_url=store_url.url, key_prefix=store_url.prefix)
    windows = _windows(attempt, settings, 3)
    assert isinstance(windows, WriteBehindWindows)
    windows.append(1, {"a": b"1234"})
    windows.close()
    driver = Driver(store_url.url)
    lives = [int(driver.client.pttl(key)) for key in driver.client.scan_iter(f"{store_url.prefix}*")]
    driver.close()
    assert len(lives) == 2
    assert 3_000_000 < min(lives) <= max(lives) <= 3_600_000


def weighted(path: str) -> JobSpec:
    freeze = {"policy": "progress-only", "options": {"weights": path}}
    return JobSpec.model_validate({"name": "n", "model": {"name": "m"}, "data": {"name": "d"}, "freeze": freeze})


def test_step_plan_counts_all_ranks() -> None:
    spec = JobSpec.model_validate(
        {
            "name": "n",
            "model": {"name": "m"},
            "data": {"name": "d"},
            "training": {"batch_size": 4, "gradient_accumulation": 3},
        }
    )
    assert step_plan(spec.training, samples=100, world=2).steps_per_epoch == 4


def test_bf16_on_the_cpu_only_when_asked_for() -> None:
    cpu = torch.device("cpu")
    assert [use_bf16(p, cpu) for p in ("fp32", "auto", "bf16")] == [False, False, True]
