"""The tokens mean what they say and depend on nothing else."""

from __future__ import annotations

import dataclasses
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from freezer.errors import PredictorError
from freezer.predictor.features import (
    CONTEXT,
    CONTEXT_NAMES,
    TOKEN_NAMES,
    TOKENS,
    Window,
    batch,
    context,
    drift,
    to_values,
    tokens,
)
from freezer.windows import Snapshot


def _walk(length: int, samples: int = 64, seed: int = 0, size: float = 0.01) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(samples, generator=generator)
    return start + (size * torch.randn(length, samples, generator=generator)).cumsum(0)


def _window(values: torch.Tensor, stride: int = 5, depth: float = 0.5) -> Window:
    steps = tuple(100 + stride * i for i in range(len(values)))
    return Window(values=values, steps=steps, total_steps=1000, depth=depth, lr_ratio=0.7)


def _column(name: str, values: torch.Tensor) -> torch.Tensor:
    return tokens(_window(values))[:, TOKEN_NAMES.index(name)]


def test_one_token_between_two_snapshots() -> None:
    assert tokens(_window(_walk(9))).shape == (8, TOKENS)
    assert tokens(_window(_walk(2))).shape == (1, TOKENS)
    assert context(_window(_walk(2))).shape == (CONTEXT,)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), length=st.integers(2, 12), seed=st.integers(0, 99))
def test_tokens_do_not_depend_on_the_scale_of_the_weights(scale: float, length: int, seed: int) -> None:
    values = _walk(length, seed=seed)
    torch.testing.assert_close(tokens(_window(values)), tokens(_window(values * scale)), rtol=1e-3, atol=2e-3)


def test_tokens_do_not_depend_on_the_order_of_the_samples() -> None:
    values = _walk(10)
    shuffled = values[:, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(tokens(_window(values)), tokens(_window(shuffled)), rtol=1e-4, atol=1e-4)


def test_straight_movement_and_oscillation_are_told_apart() -> None:
    start, direction = torch.randn(64), torch.randn(64)
    straight = torch.stack([start + 0.01 * i * direction for i in range(8)])
    swinging = torch.stack([start + 0.01 * (i % 2) * direction for i in range(8)])
    assert _column("cosine_to_previous_update", straight)[1:].min() > 0.99
    assert _column("cosine_to_previous_update", swinging)[1:].max() < -0.99
    assert _column("sign_flips", straight).max() < 0.01
    assert _column("sign_flips", swinging)[1:].min() > 0.99
    assert _column("straightness", straight).min() > 0.99
    assert _column("straightness", swinging)[-1] < 0.2


def test_slowing_down_shows() -> None:
    start, direction = torch.randn(64), torch.randn(64)
    slowing = torch.stack([start + (1 - 0.5**i) * direction for i in range(8)])
    relative = _column("log_speed_to_mean", slowing)
    assert torch.all(relative[1:] < relative[:-1])
    torch.testing.assert_close(relative[1:] - relative[:-1], torch.full((6,), math.log(0.5)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("values", [torch.zeros(6, 16), torch.ones(6, 16), torch.full((6, 16), 1e-30)])
def test_a_unit_that_does_not_move_gives_finite_numbers(values: torch.Tensor) -> None:
    assert bool(tokens(_window(values)).isfinite().all())


def test_batches_are_padded_at_the_front() -> None:
    padded, mask, contexts = batch([_window(_walk(4)), _window(_walk(9))])
    assert padded.shape == (2, 8, TOKENS)
    assert mask.tolist()[0] == [False] * 5 + [True] * 3
    assert bool(mask[1].all())
    assert contexts.shape == (2, CONTEXT)
    torch.testing.assert_close(padded[0, -3:], tokens(_window(_walk(4))))


def test_snapshots_become_values() -> None:
    window = [Snapshot(step, struct.pack("<3f", step, 1.5, -2.0)) for step in (0, 10)]
    assert to_values(window).tolist() == [[0.0, 1.5, -2.0], [10.0, 1.5, -2.0]]


def test_mixed_sizes_and_single_snapshots_are_refused() -> None:
    with pytest.raises(PredictorError, match="differ in samples"):
        to_values([Snapshot(0, bytes(8)), Snapshot(1, bytes(12))])
    with pytest.raises(PredictorError, match="two snapshots"):
        tokens(_window(_walk(1)))


def _named(window: Window) -> dict[str, float]:
    return dict(zip(CONTEXT_NAMES, context(window).tolist(), strict=True))


def test_what_moves_before_a_unit_is_told_with_it() -> None:
    values = torch.stack([torch.full((64,), 2.0), torch.full((64,), 2.5), torch.full((64,), 3.0)])
    assert drift(values[0], values[-1]) == pytest.approx(1 / 3)
    alone = _named(_window(values))
    assert alone["upstream_drift"] == alone["upstream_peak"] == pytest.approx(math.log(1 / 3))
    assert alone["log_position"] == 0.0
    behind = _named(dataclasses.replace(_window(values), upstream=(0.0, 0.5, 0.25)))
    assert behind["log_position"] == pytest.approx(math.log(4))
    assert behind["upstream_drift"] == pytest.approx(math.log(math.hypot(1 / 3, 0.5, 0.25)))
    assert behind["upstream_peak"] == pytest.approx(math.log(0.5))


def test_the_drift_of_several_units_at_once_does_not_depend_on_their_scale() -> None:
    oldest, newest = _walk(2), _walk(2, seed=1)
    together = drift(torch.stack([oldest[0], 100 * oldest[0]]), torch.stack([newest[0], 100 * newest[0]]))
    assert together.tolist() == [pytest.approx(float(drift(oldest[0], newest[0])))] * 2


@settings(max_examples=50, deadline=None)
@given(
    still=st.booleans(),
    now=st.integers(1, 1200),
    rate=st.floats(0.0, 1.5),
    upstream=st.lists(st.floats(0.0, 2.0), max_size=5),
)
def test_the_context_is_finite_wherever_a_run_stands(still: bool, now: int, rate: float, upstream: list[float]) -> None:
    values = torch.zeros(2, 8) if still else _walk(2, samples=8)
    window = Window(
        values=values, steps=(now - 1, now), total_steps=1000, depth=1.0, lr_ratio=rate, upstream=tuple(upstream)
    )
    assert context(window).isfinite().all()
