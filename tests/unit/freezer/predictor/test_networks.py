"""The predictors: sizes, invariances, and no trace left in the process."""

from __future__ import annotations

import pytest
import torch

from freezer.errors import PredictorError
from freezer.predictor.features import Window, batch
from freezer.predictor.networks import AttentionPredictor, PaperPredictor, Predictor, ProgressPredictor

CONFIG = {"width": 16, "heads": 4, "dropout": 0.1, "context": True}


def _window(length: int, samples: int = 32, seed: int = 0, progress: float = 0.5) -> Window:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, generator=generator) + torch.randn(length, samples, generator=generator).cumsum(0)
    last = round(1000 * progress)
    steps = tuple(last - length + 1 + i for i in range(length))
    return Window(values=values, steps=steps, total_steps=1000, depth=0.3, lr_ratio=1.0)


def _attention(context: bool = True) -> AttentionPredictor:
    torch.manual_seed(0)
    predictor = AttentionPredictor({**CONFIG, "context": context})
    # As after training: fresh ones start from the prior alone.
    last = predictor.head[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    predictor.eval()
    return predictor


def test_the_papers_predictor_has_its_parameters() -> None:
    assert sum(p.numel() for p in PaperPredictor({}).parameters()) == 1_037_122


def test_the_papers_predictor_decides_each_window_by_itself() -> None:
    torch.manual_seed(0)
    predictor = PaperPredictor({}).eval()
    windows = [_window(30, 1024, seed) for seed in range(3)]
    together = predictor.probabilities(windows)
    assert together == pytest.approx([predictor.probabilities([w])[0] for w in windows], abs=1e-6)


def test_the_papers_predictor_reads_only_its_own_windows() -> None:
    with pytest.raises(PredictorError, match="30 x 1024, not 12 x 1024"):
        PaperPredictor({}).probabilities([_window(12, 1024)])


def test_the_default_is_small() -> None:
    big = AttentionPredictor({"width": 64, "heads": 4, "dropout": 0.1, "context": True})
    assert sum(p.numel() for p in big.parameters()) < 200_000


def test_training_starts_from_the_prior_alone() -> None:
    fresh = AttentionPredictor(CONFIG).eval()
    one, other, later = _window(8, seed=1), _window(8, seed=2), _window(8, progress=0.9)
    assert fresh.probabilities([one]) == fresh.probabilities([other])
    assert fresh.probabilities([one]) != fresh.probabilities([later])
    assert _attention().probabilities([one]) != _attention().probabilities([other])


def test_padding_does_not_change_a_verdict() -> None:
    predictor = _attention()
    short = _window(5)
    alone = predictor.probabilities([short])[0]
    assert predictor.probabilities([short, _window(30, seed=1)])[0] == pytest.approx(alone, abs=1e-6)


def test_older_tokens_matter() -> None:
    """Attention looks back: windows that differ in their past alone are scored apart."""
    predictor = _attention()
    tokens, mask, contexts = batch([_window(12)])
    changed = tokens.clone()
    changed[:, 0] += 3.0
    with torch.no_grad():
        assert not torch.allclose(predictor(tokens, mask, contexts), predictor(changed, mask, contexts))
        mask[:, 0] = False
        torch.testing.assert_close(predictor(tokens, mask, contexts), predictor(changed, mask, contexts))


@pytest.mark.parametrize("length", [2, 3, 8, 30, 64])
def test_any_window_of_two_or_more_is_read(length: int) -> None:
    (probability,) = _attention().probabilities([_window(length)])
    assert 0.0 < probability < 1.0


def test_without_context_the_clock_is_unseen() -> None:
    early, late = _window(8, progress=0.1), _window(8, progress=0.9)
    blind = _attention(context=False)
    assert blind.probabilities([early]) == blind.probabilities([late])
    seeing = _attention()
    assert seeing.probabilities([early]) != seeing.probabilities([late])


def test_the_control_is_blind_to_weights() -> None:
    torch.manual_seed(0)
    control = ProgressPredictor({}).eval()
    assert control.probabilities([_window(8, seed=1)]) == control.probabilities([_window(8, seed=2)])
    assert control.probabilities([_window(8)]) != control.probabilities([_window(8, progress=0.9)])


@pytest.mark.parametrize("predictor", [_attention(), ProgressPredictor({}).eval()])
def test_inference_leaves_no_trace(predictor: Predictor) -> None:
    before, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    predictor.probabilities([_window(8)])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled() == grad


def test_calibration_is_applied() -> None:
    predictor = _attention()
    plain = predictor.probabilities([_window(8)])[0]
    predictor.platt.copy_(torch.tensor([1.0, 2.0]))
    shifted = predictor.probabilities([_window(8)])[0]
    assert torch.logit(torch.tensor(shifted)) == pytest.approx(float(torch.logit(torch.tensor(plain))) + 2.0, abs=1e-4)


def test_no_window_no_verdict() -> None:
    assert _attention().probabilities([]) == []


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(PredictorError, match="multiple"):
        AttentionPredictor({**CONFIG, "heads": 3})
