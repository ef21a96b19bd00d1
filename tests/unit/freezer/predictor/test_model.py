"""Weights on disk: what is saved comes back, what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from freezer.errors import PredictorError
from freezer.predictor.features import FEATURE_VERSION, Window
from freezer.predictor.model import load_predictor, save_predictor
from freezer.predictor.networks import AttentionPredictor, PaperPredictor, Predictor, ProgressPredictor


def _window() -> Window:
    values = torch.randn(30, 1024, generator=torch.Generator().manual_seed(0))
    return Window(values=values, steps=tuple(range(30)), total_steps=100, depth=0.5, lr_ratio=1.0)


def _small() -> AttentionPredictor:
    return AttentionPredictor({"width": 16, "heads": 2, "dropout": 0.1, "context": True})


@pytest.mark.parametrize("make", [_small, lambda: PaperPredictor({}), lambda: ProgressPredictor({})])
def test_saved_and_loaded_say_the_same(make: type[Predictor], tmp_path: Path) -> None:
    predictor = make().eval()
    predictor.platt.copy_(torch.tensor([0.7, -0.3]))
    path = save_predictor(predictor, tmp_path / "deep" / "p.safetensors", {"note": "x"})
    loaded = load_predictor(path)
    assert type(loaded) is type(predictor)
    assert not loaded.training
    assert loaded.probabilities([_window()]) == predictor.probabilities([_window()])
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside["note"] == "x"
    assert beside["parameters"] == sum(p.numel() for p in predictor.parameters())


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = save_predictor(_small(), tmp_path / "p.safetensors")
    before = torch.get_rng_state()
    load_predictor(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match=r"no predictor weights at .*gone"):
        load_predictor(tmp_path / "gone.safetensors")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = save_predictor(_small(), tmp_path / "p.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PredictorError, match="cannot be read"):
        load_predictor(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"feature_version": "999"}, "made for features 999"),
        ({"architecture": "other"}, "no predictor of this library"),
        ({"config": json.dumps({"width": 32, "heads": 2, "dropout": 0.1, "context": True})}, "do not fit"),
    ],
)
def test_weights_made_for_something_else_are_refused(change: dict[str, str], match: str, tmp_path: Path) -> None:
    path = save_predictor(_small(), tmp_path / "p.safetensors")
    header = {
        "format": "smartfrz-predictor",
        "architecture": "smartfrz",
        "feature_version": str(FEATURE_VERSION),
        "config": json.dumps(_small().config),
    }
    save_file(load_file(path), path, {**header, **change})
    with pytest.raises(PredictorError, match=match):
        load_predictor(path)
