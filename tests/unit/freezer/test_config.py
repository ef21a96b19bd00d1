"""Settings and the schedule derived from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from freezer.config import FreezeConfig, Schedule
from freezer.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({"unit": "neuron"}, "/unit"),
        ({"mode": "suffix"}, "/mode"),
        ({"window": 1}, "/window"),
        ({"samples": 7}, "/samples"),
        ({"snapshot_every": 0}, "/snapshot_every"),
        ({"decide_every": 0}, "/decide_every"),
        ({"decision_delay": -1}, "/decision_delay"),
        ({"threshold": 1.0}, "/threshold"),
        ({"aggressiveness": "very"}, "/aggressiveness"),
        ({"patience": 0}, "/patience"),
        ({"max_frozen_ratio": 1.1}, "/max_frozen_ratio"),
        ({"windows": 30}, "/windows"),
    ],
)
def test_bad_values_point_at_themselves(values: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FreezeConfig.from_dict(values)
    assert caught.value.pointer == pointer


def test_json_round_trip() -> None:
    config = FreezeConfig(window=12, pin=("a", "b"), options={"x": 1})
    assert FreezeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("total", [30, 31, 119, 120, 121, 1000, 100_000])
def test_the_derived_schedule_fills_the_window_in_time_and_decides_often_enough(total: int) -> None:
    schedule = FreezeConfig(window=30).schedule(total)
    snapshots = [step for step in range(total + 1) if schedule.is_snapshot(step)]
    assert snapshots[0] == 0
    assert snapshots[29] <= max(30, total // 4)
    stages = [step for step in range(total + 1) if schedule.is_stage(step) and step >= snapshots[29]]
    assert len(stages) <= 49
    if total >= 120:
        assert len(stages) >= 22


@pytest.mark.parametrize("total", [8, 40, 120, 1000, 100_000])
def test_a_short_window_is_full_early(total: int) -> None:
    schedule = FreezeConfig().schedule(total)
    assert schedule.window == 8
    assert (schedule.window - 1) * schedule.snapshot_every <= max(7, 0.06 * total)


def test_aggressiveness_sets_the_threshold_where_that_is_left_open() -> None:
    levels = [FreezeConfig(aggressiveness=level).sure for level in ("conservative", "balanced", "fast")]
    assert levels == sorted(levels, reverse=True)
    assert FreezeConfig().sure == levels[1]
    assert FreezeConfig(aggressiveness="fast", threshold=0.99).sure == 0.99


def test_the_least_gain_goes_by_policy_where_it_is_left_open() -> None:
    assert FreezeConfig().least_gain > 0.0
    assert FreezeConfig(policy="autofreeze").least_gain == 0.0
    assert FreezeConfig(min_gain=0.0).least_gain == 0.0
    annealed = FreezeConfig(options={"anneal": 0.8})
    assert 0.0 < annealed.least_gain < FreezeConfig(options={"anneal": 0}).least_gain == FreezeConfig().least_gain


def test_a_window_that_never_fills_says_what_to_change() -> None:
    with pytest.raises(ConfigError, match="use a window of at most 20") as caught:
        FreezeConfig(window=30).schedule(20)
    assert caught.value.pointer == "/window"
    assert FreezeConfig(window=30, policy="none").schedule(20).total_steps == 20


@pytest.mark.parametrize(("total", "every", "most"), [(20, 1, 20), (17, 4, 5), (16, 4, 4), (5, 4, 2)])
def test_the_window_that_is_suggested_is_the_largest_that_works(total: int, every: int, most: int) -> None:
    with pytest.raises(ConfigError, match=rf"a window of at most {most}, or ") as caught:
        FreezeConfig(window=30, snapshot_every=every).schedule(total)
    assert caught.value.pointer == "/window"
    assert FreezeConfig(window=most, snapshot_every=every).schedule(total).window == most
    with pytest.raises(ConfigError):
        FreezeConfig(window=most + 1, snapshot_every=every).schedule(total)


def test_no_window_is_suggested_where_none_would_do() -> None:
    with pytest.raises(ConfigError, match=r"the run has 10: use a smaller snapshot_every, or a longer run"):
        FreezeConfig(window=30, snapshot_every=10).schedule(10)
    with pytest.raises(ConfigError, match=r"the run has 20: use a longer run"):  # it reads exactly 30
        FreezeConfig(policy="smartfrz-paper").schedule(20)


def test_a_run_without_a_stage_after_the_window_is_full_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"none once the window is full, after 9 steps") as caught:
        FreezeConfig(window=10, snapshot_every=1, decide_every=8).schedule(16)
    assert caught.value.pointer == "/decide_every"
    assert FreezeConfig(window=10, snapshot_every=1, decide_every=8).schedule(17).decide_every == 8
    assert FreezeConfig(policy="linear", decide_every=8).schedule(8).decide_every == 8


@pytest.mark.parametrize(("policy", "good", "late"), [("static", 0.9, 0.91), ("linear", 0.89, 0.9)])
def test_a_start_after_the_last_stage_is_an_error(policy: str, good: float, late: float) -> None:
    def schedule(start: float) -> Schedule:
        options = {"start": start} | ({"first": 1} if policy == "static" else {})
        return FreezeConfig(policy=policy, decide_every=10, options=options).schedule(100)

    assert schedule(good).decide_every == 10
    with pytest.raises(ConfigError, match="the last one comes after 90 steps: use a smaller start") as caught:
        schedule(late)
    assert caught.value.pointer == "/options/start"


def test_no_start_needs_no_stage() -> None:
    for config in (
        FreezeConfig(policy="linear"),
        FreezeConfig(policy="static", options={"first": 1}),
        FreezeConfig(policy="linear", options={"start": 0}),
    ):
        assert config.schedule(1).total_steps == 1


def test_stages_effects_and_what_follows() -> None:
    schedule = FreezeConfig(window=2, snapshot_every=1, decide_every=5, decision_delay=2).schedule(20)
    assert [s for s in range(25) if schedule.is_stage(s)] == [5, 10, 15]
    assert [s for s in range(25) if schedule.takes_effect(s)] == [7, 12, 17]
    assert [schedule.next_stage(s) for s in (0, 5, 14, 15)] == [5, 10, 15, None]
