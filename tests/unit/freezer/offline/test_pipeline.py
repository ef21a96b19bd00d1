"""The whole pipeline on networks that train in a second: what is recorded is true, and what is learned is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from freezer.offline.collect import RunPlan, Training, collect
from freezer.offline.corpus import load_run, run_names
from freezer.offline.label import Rule, label_corpus, positive_share
from freezer.offline.probe import unit_grams
from freezer.offline.windows import cut, draw
from freezer.similarity import gram
from freezer.units import discover

STEPS = 40


def _plan(name: str, network: str, *, seed: int = 0, lr: float = 0.05) -> RunPlan:
    def make() -> Training:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )
        teacher = torch.randn(8, 3, generator=generator)
        x = torch.randn(STEPS, 32, 8, generator=generator)
        return Training(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=lr),
            batches=[(batch, (batch @ teacher).argmax(1)) for batch in x],
            loss=lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1]),
            total_steps=STEPS,
            probes=[((torch.randn(16, 8, generator=generator),), {}) for _ in range(2)],
            outcome=lambda m: {"weights": float(next(m.parameters()).detach().sum())},
        )

    return RunPlan(name=name, network=network, dataset="made", seed=seed, pretrained=False, make=make)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number, network in enumerate(("a", "b")):
        assert collect(_plan(f"{network}0", network, seed=number), folder, samples=64, probes=10)
    return folder


def test_a_recorded_run_is_what_training_alone_gives(corpus: Path) -> None:
    """Probes and snapshots disturb nothing: the same run without them ends with the same weights."""
    run = load_run(corpus, "a0")
    training = _plan("a0", "a").make()
    for batch in training.batches:
        loss = training.loss(training.model.train(), batch)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
    assert run.meta.outcome["weights"] == float(next(training.model.parameters()).detach().sum())
    assert run.meta.units == ["0", "3", "5"]
    assert run.values.shape == (STEPS + 1, 3, 64)
    assert set(run.values[-1, 0].tolist()) <= set(training.model[0].weight.flatten().tolist())


def test_similarity_to_the_finished_model_ends_at_one(corpus: Path) -> None:
    run = load_run(corpus, "b0")
    assert run.probe_steps.tolist() == list(range(0, STEPS + 1, 4))
    torch.testing.assert_close(run.cka[-1], torch.ones(3))
    assert float(run.cka[0, 2]) < float(run.cka[-2, 2])


def test_done_runs_are_skipped_and_half_written_ones_are_not_runs(corpus: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert not collect(_plan("a0", "a"), corpus, progress=said.append)
    assert said == ["a0: done before"]
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert run_names(tmp_path) == []


def test_probe_leaves_the_model_alone_and_reads_the_units_last_module() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    x = torch.randn(8, 4)
    units = discover(model, (x,), {}, "layer")
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grams = unit_grams(model, units, [((x,), {})])
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(grams["0"][0], gram(model[:3](x)))
    torch.testing.assert_close(grams["3"][0], gram(model(x)))


def test_windows_carry_the_label_of_their_last_snapshot(corpus: Path) -> None:
    run = load_run(corpus, "a0")
    examples = draw(run, {"0": 20, "3": None, "5": 0}, per_unit=50, seed=1)
    assert {e.unit for e in examples} == {0, 1}  # the head is never frozen
    for example in examples:
        window = example.window
        assert 4 <= len(window.steps) <= 30
        assert window.values.shape == (len(window.steps), 64)
        assert example.label == (example.unit == 0 and window.steps[-1] >= 20)
        gaps = {b - a for a, b in zip(window.steps[:-1], window.steps[1:], strict=True)}
        assert len(gaps) == 1
    assert sum(len(e.window.steps) == 30 for e in examples) >= 50, "every other window is a full one"
    assert draw(run, {"0": 20, "3": None}, 50, 1)[7].window.steps == examples[7].window.steps


def test_cut_takes_the_rows_that_it_names(corpus: Path) -> None:
    run = load_run(corpus, "a0")
    window = cut(run, 1, end=30, length=8, stride=3)
    assert window.steps == (9, 12, 15, 18, 21, 24, 27, 30)
    assert torch.equal(window.values[0], run.values[9, 1])
    assert window.depth == 0.5
    assert window.progress == 0.75


def test_labels_are_written_beside_the_runs(corpus: Path) -> None:
    labels = label_corpus(corpus, Rule(window=3, variance=1.0, level=0.0))
    assert set(labels) == {"a0", "b0"}
    assert (corpus / "a0.labels.json").is_file()
    run = load_run(corpus, "a0")
    assert positive_share(run, dict.fromkeys(run.meta.units, STEPS // 2)) == 0.5
    assert run_names(corpus) == ["a0", "b0"]
