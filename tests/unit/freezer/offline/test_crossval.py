"""What is learned is used, and what is scored was never seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from freezer.errors import PredictorError
from freezer.offline.crossval import LeftOut, honest_probabilities, leave_one_out, train
from freezer.offline.evaluate import checks, evaluate
from freezer.offline.summary import Summary, load_summary, merged, save_summary
from freezer.offline.train import DEFAULTS, Prepared, Recipe, prepare, readable
from freezer.offline.windows import Example
from freezer.student import student
from tests.unit.freezer.offline.made_up import made

EXAMPLES = made("abc", 20, 0)
RECIPE = Recipe(epochs=8, lr=5e-3, batch_size=64)


def _data(name: str, examples: list[Example] = EXAMPLES) -> Prepared:
    return prepare(name, dict(DEFAULTS[name]), examples)


@pytest.fixture(scope="module")
def summary() -> Summary:
    scores = {}
    for name in ("smartfrz", "progress-only"):
        data = _data(name)
        left_out = leave_one_out(name, dict(DEFAULTS[name]), data, RECIPE, data.networks)
        scores[name] = honest_probabilities(left_out, data)
    runs = sorted({e.run for e in EXAMPLES})
    return Summary(
        [{"name": run, "network": run[0], "dataset": "made"} for run in runs],
        torch.tensor([runs.index(e.run) for e in EXAMPLES]),
        torch.tensor([e.unit for e in EXAMPLES]),
        torch.tensor([e.window.progress for e in EXAMPLES]),
        torch.tensor([len(e.window.steps) for e in EXAMPLES]),
        torch.tensor([e.label for e in EXAMPLES]),
        {"network": scores, "dataset": scores},
        {"made": "up"},
    )


def test_attention_beats_the_clock_where_weights_tell(summary: Summary) -> None:
    tables = evaluate(summary, resamples=200)
    own, control, random = (tables["network"][name] for name in ("smartfrz", "progress-only", "random"))
    assert set(own["groups"]) == {"a", "b", "c"}
    assert own["mean"]["roc_auc"] > 0.9
    assert own["mean"]["roc_auc_same_tenth"] > 0.8
    assert own["mean"]["calibration_error"] < 0.2
    low, high = own["gain_over_progress_only"]["interval"]
    assert 0 < low < own["gain_over_progress_only"]["roc_auc"] < high
    assert own["mean"]["roc_auc"] - control["mean"]["roc_auc"] == own["gain_over_progress_only"]["roc_auc"]
    low, high = random["mean"]["interval"]
    assert low < 0.5 < high
    assert set(tables["dataset"]["smartfrz"]["groups"]) == {"made"}
    found = {check["measure"]: check for check in checks(tables)}
    assert found["network left out: roc_auc"]["ok"]
    assert found["dataset left out: roc_auc"]["ok"] is None
    full = evaluate(summary, resamples=10, length=30)["network"]["smartfrz"]["groups"]["a"]
    assert full["windows"] < own["groups"]["a"]["windows"]


def test_the_interval_that_speaks_of_other_networks_takes_the_networks_as_the_sample(summary: Summary) -> None:
    tables = evaluate(summary, resamples=50)
    own, control = (tables["network"][name] for name in ("smartfrz", "progress-only"))
    aucs = [group["roc_auc"] for group in own["groups"].values()]
    gains = [group["roc_auc"] - control["groups"][name]["roc_auc"] for name, group in own["groups"].items()]
    assert own["mean"]["over_groups"] == student(aucs)
    assert own["gain_over_progress_only"]["over_groups"] == student(gains)
    assert tables["dataset"]["smartfrz"]["mean"]["over_groups"] == (None, None), "one group is no sample"


def test_a_summary_comes_back_as_it_was(summary: Summary, tmp_path: Path) -> None:
    save_summary(tmp_path / "s.safetensors", summary)
    back = load_summary(tmp_path / "s.safetensors")
    assert back.runs == summary.runs
    assert back.about == {"made": "up"}
    assert torch.equal(back.labels, summary.labels)
    assert torch.equal(back.probabilities["dataset"]["smartfrz"], summary.probabilities["dataset"]["smartfrz"])
    with pytest.raises(PredictorError, match="predictor crossval"):
        load_summary(tmp_path / "none.safetensors")


def test_scores_of_another_predictor_are_added_to_the_same_windows(summary: Summary) -> None:
    alone = dataclasses.replace(summary, probabilities={"network": {"x": summary.progress}, "dataset": {}})
    both = merged(summary, alone)
    assert set(both.probabilities["network"]) == {"smartfrz", "progress-only", "x"}
    assert both.about["earlier"] == [{"made": "up"}]
    others = dataclasses.replace(alone, labels=~alone.labels)
    assert set(merged(summary, others).probabilities["network"]) == {"x"}


@pytest.mark.parametrize("networks", ["abc", "ab"])
def test_nothing_is_chosen_on_the_group_that_is_scored(networks: str) -> None:
    """Changing what is known of one group changes neither its epoch nor its calibration."""
    data = _data("progress-only", [example for example in EXAMPLES if example.network in networks])
    curves = torch.randn(4, len(data.labels), generator=torch.Generator().manual_seed(1))
    before = honest_probabilities(LeftOut(curves, data.networks), data)
    mine = torch.tensor([network == "a" for network in data.networks])
    turned = Prepared(data.inputs, torch.where(mine, 1 - data.labels, data.labels), data.weights, data.networks)
    after = honest_probabilities(LeftOut(curves, data.networks), turned)
    assert torch.equal(before[mine], after[mine])
    assert not torch.equal(before[~mine], after[~mine])


def test_training_is_repeatable_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    data = _data("smartfrz", made("ab", 5, 0))
    config = dict(DEFAULTS["smartfrz"])
    first, second = (train("smartfrz", config, data, Recipe(epochs=2), data.networks)[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "changes", [{"pool": "mean"}, {"pool": "newest"}, {"context": ["lr_ratio"]}, {"linear": "all"}, {"linear": "none"}]
)
def test_forms_for_comparison_learn_too(changes: dict[str, object]) -> None:
    data = _data("smartfrz", made("ab", 8, 0))
    config = {**DEFAULTS["smartfrz"], **changes}
    left_out = leave_one_out("smartfrz", config, data, Recipe(epochs=4, lr=5e-3, batch_size=64), data.networks)
    losses = left_out.losses(data)
    assert losses[-1] < losses[0]
    with pytest.raises(PredictorError, match="no such"):
        train("smartfrz", {**config, "pool": "sum"}, data, Recipe(epochs=1), data.networks)


def test_networks_weigh_the_same() -> None:
    data = prepare("progress-only", {}, made("a", 10, 0) + made("b", 2, 0))
    by_network = {n: sum(float(w) for w, m in zip(data.weights, data.networks, strict=True) if m == n) for n in "ab"}
    assert by_network["a"] == pytest.approx(by_network["b"], rel=1e-4)


def test_one_network_cannot_be_left_out() -> None:
    data = _data("progress-only", made("a", 5, 0))
    with pytest.raises(ValueError, match="at least two"):
        train("progress-only", {}, data, Recipe(epochs=1), data.networks)


def test_the_papers_predictor_reads_full_windows_alone() -> None:
    assert not any(readable("smartfrz-paper", e.window) for e in EXAMPLES)  # 64 samples
    assert all(readable("smartfrz", e.window) for e in EXAMPLES)
