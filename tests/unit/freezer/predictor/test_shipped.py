"""The shipped weights: there, whole, described, and saying what any sensible predictor would."""

from __future__ import annotations

import json

import pytest
import torch

from freezer.offline.evaluate import checks, evaluate
from freezer.offline.summary import load_summary
from freezer.predictor.features import Window
from freezer.predictor.model import SHIPPED, WEIGHTS, load_predictor


def _windows(speed: float, decay: float, seeds: int = 12) -> list[Window]:
    """Units in the middle of network and run that move at ``speed``, slowing by ``decay`` a snapshot."""
    result = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        moves = torch.randn(20, 1024, generator=generator) * speed * decay ** torch.arange(20)[:, None]
        values = torch.randn(1024, generator=generator) + moves.cumsum(0)
        steps = tuple(range(130, 150))
        result.append(Window(values=values, steps=steps, total_steps=300, depth=0.5, lr_ratio=0.7))
    return result


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_predictors_load_and_answer(name: str) -> None:
    predictor = load_predictor(name)
    assert predictor.architecture == name
    assert all(0.0 < p < 1.0 for p in predictor.probabilities(_windows(0.01, 0.9)))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_says_what_it_was_made_of(name: str) -> None:
    described = json.loads((WEIGHTS / f"{name}.json").read_text())
    assert described["architecture"] == name
    assert described["parameters"] == sum(p.numel() for p in load_predictor(name).parameters())
    assert len(described["trained_on"]) >= 24


def test_what_is_claimed_can_be_recomputed_from_what_is_shipped() -> None:
    summary = load_summary(WEIGHTS / "crossval.safetensors")
    assert len({(run["network"], run["dataset"]) for run in summary.runs}) >= 12
    assert {run["name"] for run in summary.runs} == set(
        json.loads((WEIGHTS / "smartfrz.json").read_text())["trained_on"]
    )
    tables = evaluate(summary, resamples=50)
    found = {check["measure"]: check for check in checks(tables)}
    assert found["network left out: roc_auc"]["ok"]
    low, _ = tables["network"]["smartfrz"]["gain_over_progress_only"]["interval"]
    assert low > 0, "the weights tell more than the clock"
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    assert f"{tables['network']['smartfrz']['mean']['roc_auc']:.3f}" in card
    assert f"{tables['network']['progress-only']['mean']['roc_auc']:.3f}" in card


def test_a_unit_that_still_travels_is_less_converged_than_one_at_rest() -> None:
    predictor = load_predictor("smartfrz")
    travelling = predictor.probabilities(_windows(0.3, 1.0))
    resting = predictor.probabilities(_windows(0.001, 0.9))
    assert sum(travelling) / len(travelling) + 0.05 < sum(resting) / len(resting)


def test_the_model_card_carries_commands_and_figures() -> None:
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    for step in ("collect", "label", "crossval", "train", "evaluate"):
        assert f"smartfrz predictor {step}" in card
    assert "progress-only" in card
