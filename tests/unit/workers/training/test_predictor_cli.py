"""The steps of making a predictor from the command line, on recorded runs that were made up and on a real one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from freezer.offline.corpus import Run, RunMeta, load_run, save_run
from freezer.predictor.model import load_predictor
from workers.packages import DataPackageMissing, locate
from workers.training.predictor_cli import main
from workers.training.predictor_runs import RUNS

UNITS = ["u0", "u1", "u2", "head"]


def _made_up(name: str, network: str, dataset: str, seed: int) -> Run:
    """Similarity rises to one at a moment of each unit's own, after which its weights are nearly still."""
    generator = torch.Generator().manual_seed(seed)
    moments = torch.randint(20, 60, (len(UNITS),), generator=generator)
    steps = torch.arange(101)
    speed = torch.where(steps[:, None] < moments, 0.02, 0.001)
    moves = torch.randn(101, len(UNITS), 32, generator=generator) * speed[..., None]
    values = torch.randn(len(UNITS), 32, generator=generator) + moves.cumsum(0)
    probe_steps = steps[::5]
    cka = torch.where(probe_steps[:, None] < moments, 0.3, 0.99)
    meta = RunMeta(name=name, network=network, dataset=dataset, seed=seed, pretrained=False, units=UNITS,
                   total_steps=100, recipe={}, outcome={"test_accuracy": 0.5}, seconds=1.0)  # fmt: skip
    return Run(meta, values, steps, torch.ones(101), probe_steps, cka)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for seed, run in enumerate(run for run in RUNS if run.seed == 0):
        save_run(folder, _made_up(run.name, run.model, run.data, seed))
    return folder


def test_label_crossval_train_and_evaluate(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--corpus", str(corpus)]) == 0
    quick = ["--corpus", str(corpus), "--epochs", "3", "--per-unit", "4"]
    file = tmp_path / "smartfrz.safetensors"
    assert main(["train", *quick, "--out", str(file)]) == 0
    described = json.loads(file.with_suffix(".json").read_text())
    assert described["trained_on"] == sorted(r.name for r in RUNS if r.seed == 0)
    assert load_predictor(file).architecture == "smartfrz"

    summary, folder = tmp_path / "scores.safetensors", tmp_path / "weights"
    chosen = ["--architecture", "smartfrz", "--architecture", "progress-only"]
    assert main(["crossval", *quick, *chosen, "--out", str(summary), "--weights", str(folder)]) == 0
    network = RUNS[0].model
    without = json.loads((folder / f"smartfrz-without-{network}.json").read_text())
    assert without["without"] == network
    assert len(list(folder.glob("*.safetensors"))) == 2 * len({run.model for run in RUNS})

    capsys.readouterr()
    table = tmp_path / "table.json"
    assert main(["evaluate", "--summary", str(summary), "--json", "-", "--out", str(table)]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {frozenset(check) for check in checks} == {frozenset({"measure", "value", "bound", "ok"})}
    written = json.loads(table.read_text())
    assert set(written["network"]["smartfrz"]["groups"]) == {run.model for run in RUNS}
    assert set(written["dataset"]["random"]["groups"]) == {run.data for run in RUNS if run.seed == 0}


@pytest.mark.parametrize(
    ("step", "message"),
    [("label", "predictor collect` first"), ("train", "no labelled run"), ("evaluate", "predictor crossval`")],
)
def test_a_step_without_the_one_before_says_so(
    step: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--summary", str(tmp_path / "none")] if step == "evaluate" else []
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


def test_the_corpus_is_as_varied_as_it_claims() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    assert {run.schedule for run in RUNS} == {"cosine", "linear", "constant"}
    assert {run.optimizer for run in RUNS} == {"adamw", "sgd"}
    assert {run.pretrained for run in RUNS} == {True, False}
