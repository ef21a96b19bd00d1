"""The whole pipeline on networks that train in a second: what is recorded is true, and what is learned is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from freezer.offline.collect import RunPlan, Training, collect
from freezer.offline.corpus import Run, RunMeta, load_run, run_names
from freezer.offline.evaluate import compare, probabilities, verdicts
from freezer.offline.label import Rule, label_corpus, positive_share
from freezer.offline.probe import unit_grams
from freezer.offline.train import DEFAULTS, Recipe, prepare, train
from freezer.offline.windows import Example, cut, draw
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
    assert {e.unit for e in examples} == {"0", "3"}  # the head is never frozen
    for example in examples:
        window = example.window
        assert 4 <= len(window.steps) <= 30
        assert window.values.shape == (len(window.steps), 64)
        assert example.label == (example.unit == "0" and window.steps[-1] >= 20)
        gaps = {b - a for a, b in zip(window.steps[:-1], window.steps[1:], strict=True)}
        assert len(gaps) == 1
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


def _synthetic(network: str, seed: int, units: int = 12) -> tuple[Run, dict[str, int | None]]:
    """Runs where weights move fast until a unit's own moment, and hardly after it: the clock does not tell when."""
    generator = torch.Generator().manual_seed(seed)
    moments = torch.randint(10, 90, (units,), generator=generator).tolist()
    moving = torch.tensor([[1.0 if step < m else 0.05 for m in moments] for step in range(101)])
    steps = 0.02 * torch.randn(101, units, 64, generator=generator) * moving[..., None]
    values = torch.randn(units, 64, generator=generator) + steps.cumsum(0)
    names = [f"u{i}" for i in range(units)]
    meta = RunMeta(name=f"{network}{seed}", network=network, dataset="made", seed=seed, pretrained=False, units=names,
                   total_steps=100, recipe={}, outcome={}, seconds=0.0)  # fmt: skip
    run = Run(meta, values, torch.arange(101), torch.ones(101), torch.arange(2), torch.zeros(2, units))
    # Known only once most of a window is calm.
    return run, {name: moment + 4 for name, moment in zip(names, moments, strict=True)}


def _made(networks: str, per_unit: int, seed: int) -> list[Example]:
    return [
        example
        for number, network in enumerate(networks)
        for example in draw(*_synthetic(network, seed + number), per_unit, seed)
    ]


def test_attention_beats_the_clock_where_weights_tell() -> None:
    recipe = Recipe(epochs=8, lr=5e-3, batch_size=64)
    examples, unseen = _made("abc", 20, 0), _made("z", 30, 50)
    predictors = {
        name: train(name, dict(DEFAULTS[name]), examples, recipe)[0] for name in ("smartfrz", "progress-only")
    }
    table = compare(predictors, unseen)
    assert table["smartfrz"]["roc_auc"] > 0.9
    assert table["smartfrz"]["roc_auc_same_tenth"] > 0.8
    assert table["smartfrz"]["roc_auc"] > table["progress-only"]["roc_auc"]
    assert table["smartfrz"]["calibration_error"] < 0.2
    assert abs(table["random"]["roc_auc"] - 0.5) < 0.1
    assert all(check["ok"] for check in verdicts(table)[:4])
    assert len(probabilities(predictors["smartfrz"], unseen)) == len(unseen)


def test_training_is_repeatable_and_leaves_the_random_state_alone() -> None:
    recipe = Recipe(epochs=2)
    before = torch.get_rng_state()
    first, second = (train("smartfrz", dict(DEFAULTS["smartfrz"]), _made("ab", 5, 0), recipe)[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_networks_weigh_the_same() -> None:
    examples = _made("a", 10, 0) + _made("b", 2, 0)
    data = prepare("progress-only", {}, examples)
    by_network = {n: sum(float(w) for w, m in zip(data.weights, data.networks, strict=True) if m == n) for n in "ab"}
    assert by_network["a"] == pytest.approx(by_network["b"], rel=1e-4)


def test_one_network_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least two"):
        train("progress-only", {}, _made("a", 5, 0), Recipe(epochs=1))
