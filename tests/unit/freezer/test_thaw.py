"""Triggers: schedules of torch, step by step. What moves smoothly never thaws; what jumps does, at that step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from freezer.errors import ConfigError
from freezer.thaw import RateWatch, ScoreWatch

Make = Callable[[torch.optim.Optimizer], Any]


def rates(make: Make, steps: int) -> Iterator[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make(optimizer)
    for _ in range(steps):
        yield float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def causes(values: Any, drop: float | None = 10.0, restart: float | None = 2.0) -> list[tuple[int, str]]:
    watch = RateWatch(drop, restart)
    found: list[tuple[int, str]] = []
    for step, rate in enumerate(values):
        fresh = RateWatch(drop, restart)  # as after a resume at every step
        fresh.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        watch = fresh
        cause = watch.see(rate)
        if cause is not None:
            found.append((step, cause))
    return found


LENGTHS = [*range(3, 40), 97, 250, 1001]


@pytest.mark.parametrize("floor", [0.0, 1e-8, 1e-5])
@pytest.mark.parametrize("every", [1, 3])
def test_cosine_linear_and_polynomial_decays_never_thaw(floor: float, every: int) -> None:
    for n in LENGTHS:
        shapes = [
            [math.cos(math.pi * t / n) / 2 + 0.5 for t in range(n + 1)],
            [1 - t / n for t in range(n + 1)],
            [(1 - t / n) ** 2 for t in range(n + 1)],
            [(1 - t / n) ** 4 for t in range(n + 1)],
            [1 - math.sqrt(t / n) for t in range(n + 1)],
        ]
        for warm_up in (0, 1, 5):
            for shape in shapes:
                values = [t / warm_up for t in range(warm_up)] + shape
                steps = [floor + 0.1 * max(0.0, v) for v in values for _ in range(every)]
                assert causes(steps) == [], (n, warm_up)


@pytest.mark.parametrize("n", LENGTHS)
def test_torch_schedules_that_are_smooth_never_thaw(n: int) -> None:
    def warm(o: torch.optim.Optimizer) -> Any:
        parts = [schedules.LinearLR(o, 1e-3, 1.0, n // 2 + 1), schedules.CosineAnnealingLR(o, n)]
        return schedules.SequentialLR(o, parts, [n // 2 + 1])

    makes: list[Make] = [
        lambda o: schedules.CosineAnnealingLR(o, n),
        lambda o: schedules.CosineAnnealingLR(o, n, eta_min=1e-7),
        lambda o: schedules.LinearLR(o, 1.0, 0.0, n),
        lambda o: schedules.ExponentialLR(o, 0.9),
        lambda o: schedules.LambdaLR(o, lambda t: min(1.0, t / n)),
        warm,
    ]
    for make in makes:
        assert causes(rates(make, n + n // 2 + 1)) == []
    assert causes(rates(lambda o: schedules.CosineAnnealingLR(o, n), 4 * n)) == []  # a wave: falls and rises smoothly
    if n >= 6:
        assert causes(rates(lambda o: schedules.OneCycleLR(o, 0.1, n), n)) == []


def test_step_schedules_thaw_at_each_drop() -> None:
    drops = [(10, "lr_drop"), (20, "lr_drop"), (30, "lr_drop")]
    assert causes(rates(lambda o: schedules.StepLR(o, 10), 35)) == drops
    assert causes(rates(lambda o: schedules.StepLR(o, 10, gamma=0.2), 35)) == []
    assert causes(rates(lambda o: schedules.MultiStepLR(o, [7, 9], gamma=0.05), 20)) == [(7, "lr_drop"), (9, "lr_drop")]
    assert causes(rates(lambda o: schedules.StepLR(o, 10), 35), drop=None) == []


def test_a_drop_after_a_warm_up_and_within_a_decay() -> None:
    assert causes([0.0, 0.05, 0.1, 0.1, 0.01, 0.01]) == [(4, "lr_drop")]
    decay = [0.1 * (1 - t / 100) for t in range(50)]
    assert causes([*decay, 0.005, 0.0049, 0.0048]) == [(50, "lr_drop")]


@pytest.mark.parametrize("first", [6, 7, 10, 50])
@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_warm_restarts_thaw_at_each_restart(first: int, floor: float) -> None:
    found = causes(
        rates(lambda o: schedules.CosineAnnealingWarmRestarts(o, first, T_mult=2, eta_min=floor), 7 * first + 1)
    )
    assert found == [(first, "lr_restart"), (3 * first, "lr_restart"), (7 * first, "lr_restart")]
    assert causes(rates(lambda o: schedules.CosineAnnealingWarmRestarts(o, first), 3 * first), restart=None) == []


def test_a_restart_after_a_drop_and_a_second_warm_up_thaw_once() -> None:
    assert causes([0.1, 0.1, 0.01, 0.01, 0.1]) == [(2, "lr_drop"), (4, "lr_restart")]
    falling = [0.1 * (1 - t / 50) for t in range(51)]
    assert causes([*falling, 0.02, 0.04, 0.06, 0.08, 0.1]) == [(51, "lr_restart")]


def test_no_rate_and_constant_rates_do_nothing() -> None:
    assert causes([0.0] * 5) == []
    assert causes([0.1] * 5) == []
    assert causes([0.1, 0.0, 0.0, 0.1]) == []  # switched off and on again: it trained nothing in between
    assert causes([0.1, math.nan, 0.1, -1.0, 0.1]) == []


def test_a_score_that_falls_more_than_the_bound_below_the_best_thaws_once() -> None:
    watch = ScoreWatch(0.01)
    said = []
    for score in [0.50, 0.60, 0.595, 0.58, 0.57, 0.575, 0.55]:
        fresh = ScoreWatch(0.01)
        fresh.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        watch = fresh
        said.append(watch.see(score))
    assert said == [False, False, False, True, False, False, True]  # after the thaw 0.57 is the first, 0.575 the best


def test_scores_without_a_bound_or_without_anything_frozen_thaw_nothing() -> None:
    assert not any(ScoreWatch(None).see(score) for score in (0.9, 0.1))
    watch = ScoreWatch(0.0)
    assert [watch.see(0.9, frozen=False), watch.see(0.5, frozen=False), watch.see(0.8)] == [False, False, True]
    watch.see(0.9)
    watch.restart()
    assert not watch.see(0.1)


def test_a_score_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        ScoreWatch(0.1).see(math.nan)
