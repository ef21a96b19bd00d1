"""The steps of making a predictor from the command line, on recorded runs that were made up and on a real one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from freezer.offline.corpus import Run, RunMeta, load_run, save_run
from freezer.predictor.model import load_predictor, save_predictor
from freezer.predictor.networks import ProgressPredictor
from workers.packages import DataPackageMissing, locate
from workers.training.predictor_cli import main
from workers.training.predictor_runs import RUNS

UNITS = ["u0", "u1", "u2", "head"]


def _made_up(name: str, network: str, seed: int) -> Run:
    """Similarity rises to one at a moment of each unit's own, after which its weights are nearly still."""
    generator = torch.Generator().manual_seed(seed)
    moments = torch.randint(20, 60, (len(UNITS),), generator=generator)
    steps = torch.arange(101)
    speed = torch.where(steps[:, None] < moments, 0.02, 0.001)
    moves = torch.randn(101, len(UNITS), 32, generator=generator) * speed[..., None]
    values = torch.randn(len(UNITS), 32, generator=generator) + moves.cumsum(0)
    probe_steps = steps[::5]
    cka = torch.where(probe_steps[:, None] < moments, 0.3, 0.99)
    meta = RunMeta(name=name, network=network, dataset="made", seed=seed, pretrained=False, units=UNITS,
                   total_steps=100, recipe={}, outcome={"test_accuracy": 0.5}, seconds=1.0)  # fmt: skip
    return Run(meta, values, steps, torch.ones(101), probe_steps, cka)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for seed, run in enumerate(run for run in RUNS if run.seed == 0):
        save_run(folder, _made_up(run.name, run.model, seed))
    return folder


def test_label_train_and_evaluate(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--corpus", str(corpus)]) == 0
    files = []
    for name in ("smartfrz", "progress-only"):
        files.append(str(tmp_path / f"{name}.safetensors"))
        arguments = ["--architecture", name, "--epochs", "3", "--per-unit", "10", "--out", files[-1]]
        assert main(["train", "--corpus", str(corpus), *arguments]) == 0
    described = json.loads((tmp_path / "smartfrz.json").read_text())
    assert described["trained_on"] == sorted(r.name for r in RUNS if r.group == "train" and r.seed == 0)
    assert not any("mobilenet" in name or "20newsgroups" in name for name in described["trained_on"])
    assert set(described["left_out_by_network"]) == {"resnet-small", "vgg-small", "vit-small", "minilm-l6"}
    assert load_predictor(files[0]).architecture == "smartfrz"

    capsys.readouterr()
    chosen = [argument for file in files for argument in ("--predictor", file)]
    table = tmp_path / "table.json"
    assert main(["evaluate", "--corpus", str(corpus), *chosen, "--json", "-", "--out", str(table)]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {frozenset(check) for check in checks} == {frozenset({"measure", "value", "bound", "ok"})}
    assert {check["measure"].split(".")[0] for check in checks} == {"network", "dataset"}
    written = json.loads(table.read_text())
    assert written["network"]["runs"] == ["mobilenetv2-small-mnist5k-0"]
    assert set(written["network"]["table"]) == {"smartfrz", "progress-only", "random"}


@pytest.mark.parametrize(
    ("step", "message"),
    [("label", "predictor collect` first"), ("train", "no labelled run"), ("evaluate", "no labelled run")],
)
def test_a_step_without_the_one_before_says_so(
    step: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(save_predictor(ProgressPredictor({}), tmp_path / "p.safetensors"))
    more = ["--predictor", weights] if step == "evaluate" else []
    assert main([step, "--corpus", str(tmp_path / "empty"), *more]) == 1
    assert message in capsys.readouterr().err


def test_unlabelled_runs_are_named(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--corpus", str(corpus)]) == 1
    assert "has no labels: run `smartfrz predictor label` first" in capsys.readouterr().err


def test_collect_records_a_real_network_on_real_images(
    tmp_path: Path, packages_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        locate("mnist5k", packages_dir)
    except DataPackageMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    monkeypatch.setenv("SMARTFRZ_PACKAGES_DIR", str(packages_dir))
    name = "resnet-small-mnist5k-0"
    arguments = ["collect", "--corpus", str(tmp_path), "--only", name, "--max-steps", "4"]
    assert main(arguments) == 0
    run = load_run(tmp_path, name)
    assert run.steps.tolist() == run.probe_steps.tolist() == [0, 1, 2, 3, 4]
    assert run.values.shape == (5, len(run.meta.units), 1024)
    assert run.meta.units[0].startswith("stem")
    assert run.meta.units[-1] == "head"
    assert bool((run.values[-1] != run.values[0]).any(1).all())
    torch.testing.assert_close(run.cka[-1], torch.ones(len(run.meta.units)))
    assert bool((run.cka[0] < 0.9999).any())


def test_the_plans_keep_what_is_held_out_out_of_training() -> None:
    trained = {run.model for run in RUNS if run.group == "train"}
    assert not trained & {run.model for run in RUNS if run.group == "network"}
    assert not {r.data for r in RUNS if r.group == "train"} & {r.data for r in RUNS if r.group == "dataset"}
    assert len({run.name for run in RUNS}) == len(RUNS)
