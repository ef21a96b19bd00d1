"""Every policy behind one door: what it decides, what it refuses, that a resume changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from freezer import policies
from freezer.config import POLICIES, FreezeConfig
from freezer.errors import ConfigError, PredictorError
from freezer.options import OPTION_SCHEMAS, check_options
from freezer.policies.annealing import Annealing
from freezer.policies.base import PolicyContext, Verdict, overrides
from freezer.policies.controls import RandomPolicy
from freezer.policies.learned import AnnealedPolicy, LearnedPolicy
from freezer.policies.linear import frozen_count
from freezer.predictor.features import Window, drift, to_values
from freezer.predictor.model import save_predictor
from freezer.predictor.networks import AttentionPredictor, PaperPredictor, ProgressPredictor
from freezer.units import Unit
from freezer.windows import Snapshot

NAMES = ("stem", "blocks.0", "blocks.1", "blocks.2", "head")


def _unit(name: str, index: int) -> Unit:
    return Unit(name=name, index=index, block=name, params=(f"{name}.weight",), modules=(name,), flops=1,
                activation_bytes=1, parameters=1)  # fmt: skip


def _snapshots(count: int, seed: int, samples: int = 1024) -> list[Snapshot]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, generator=generator)
    result = []
    for step in range(count):
        result.append(Snapshot(step, values.numpy().tobytes()))
        values = values + 0.01 * torch.randn(samples, generator=generator)
    return result


def _context(config: FreezeConfig, step: int = 50, count: int = 8, frozen: frozenset[str] = frozenset()) -> Any:
    return PolicyContext(
        step=step,
        total_steps=100,
        units=[_unit(name, index) for index, name in enumerate(NAMES)],
        frozen=frozen,
        windows={name: _snapshots(count, seed) for seed, name in enumerate(NAMES)},
        learning_rate=0.5,
        initial_learning_rate=1.0,
        config=config,
    )


def _converged(verdicts: list[Verdict]) -> list[str]:
    return [verdict.unit for verdict in verdicts if verdict.converged]


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str]:
    """Untrained predictors of each architecture."""
    torch.manual_seed(0)
    made = {
        "smartfrz": AttentionPredictor({"width": 16, "heads": 2, "dropout": 0.0, "context": True}),
        "smartfrz-paper": PaperPredictor({}),
        "progress-only": ProgressPredictor({}),
    }
    return {name: str(save_predictor(p, tmp_path / f"{name}.safetensors")) for name, p in made.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_made_decides_and_resumes(name: str, weights: dict[str, str]) -> None:
    options: dict[str, Any] = {"weights": weights[name]} if name in weights else {}
    config = FreezeConfig(policy=name, options=options or ({"first": 2} if name == "static" else {}))
    policy = policies.make(config)
    assert policy.name == name
    context = _context(config, step=90, count=30)
    verdicts = policy.decide(context)
    assert [v.unit for v in verdicts] == [n for n in NAMES if n in {v.unit for v in verdicts}]
    restored = policies.make(config)
    restored.load_state_dict(policy.state_dict())
    assert restored.decide(context) == verdicts


@pytest.mark.parametrize("name", ["smartfrz", "progress-only"])
def test_a_learned_policy_speaks_only_of_full_windows(name: str, weights: dict[str, str]) -> None:
    config = FreezeConfig(policy=name, window=8, options={"weights": weights[name]})
    policy = policies.make(config)
    assert policy.decide(_context(config, count=7)) == []
    context = _context(config, count=8, frozen=frozenset({"stem"}))
    context.windows["blocks.1"] = context.windows["blocks.1"][1:]
    del context.windows["blocks.2"]
    verdicts = policy.decide(context)
    assert [v.unit for v in verdicts] == ["blocks.0", "head"]
    assert all(v.probability is not None and 0.0 <= v.probability <= 1.0 for v in verdicts)


class _Listening(ProgressPredictor):
    """Keeps the windows that it was shown."""

    def prepare(self, windows: Sequence[Window]) -> tuple[Tensor, ...]:
        self.shown = list(windows)
        return super().prepare(windows)


def test_a_learned_policy_tells_of_each_unit_what_moves_before_it() -> None:
    predictor = _Listening({})
    config = FreezeConfig(window=8)
    context = _context(config, frozen=frozenset({"blocks.0"}))
    context.windows["blocks.1"] = context.windows["blocks.1"][:3]  # no verdict yet, but it moves
    LearnedPolicy("smartfrz", predictor).decide(context)
    moved = {name: drift(v[0], v[-1]).item() for name in NAMES for v in [to_values(context.windows[name])]}
    assert [window.upstream for window in predictor.shown] == [
        (),
        pytest.approx((moved["stem"], 0.0, moved["blocks.1"])),
        pytest.approx((moved["stem"], 0.0, moved["blocks.1"], moved["blocks.2"])),
    ]


def test_an_annealed_unit_is_judged_by_its_own_learning_rate() -> None:
    predictor, annealing = _Listening({}), Annealing(0.5)
    context = _context(FreezeConfig(window=8), step=10)
    AnnealedPolicy("smartfrz", predictor, annealing).decide(context)
    rates = annealing.rates(10, 100, context.units)
    assert rates["stem"] < rates["blocks.0"]
    assert rates["blocks.1"] > 1.5  # scaled above the initial rate, beyond what the predictor was trained on
    assert [w.lr_ratio for w in predictor.shown] == [pytest.approx(min(1.5, rates[name])) for name in NAMES]


def test_the_threshold_decides(weights: dict[str, str]) -> None:
    for threshold, expected in ((0.001, list(NAMES)), (0.999, [])):
        config = FreezeConfig(
            policy="smartfrz", window=8, threshold=threshold, options={"weights": weights["smartfrz"]}
        )
        assert _converged(policies.make(config).decide(_context(config))) == expected


@pytest.mark.parametrize("name", ["smartfrz", "progress-only"])
def test_an_annealed_unit_counts_as_converged_once_it_is_at_rest(name: str, weights: dict[str, str]) -> None:
    config = FreezeConfig(policy=name, threshold=0.999, options={"weights": weights[name], "anneal": 0.5})
    policy = policies.make(config)
    # t_i are 0.125, 0.24, 0.42, 0.67 and 1: at 0.39 the third has nine tenths of its own behind it
    assert _converged(policy.decide(_context(config, step=37))) == ["stem", "blocks.0"]
    assert _converged(policy.decide(_context(config, step=38))) == ["stem", "blocks.0", "blocks.1"]
    assert policy.decide(_context(config, step=38, count=7)) == []
    eager = FreezeConfig(policy=name, threshold=0.001, options=config.options)
    assert _converged(policies.make(eager).decide(_context(eager, step=1))) == list(NAMES)


def test_annealed_rates_are_those_of_freezeout_and_off_there_are_none(weights: dict[str, str]) -> None:
    units = _context(FreezeConfig()).units
    annealed = policies.make(FreezeConfig(options={"weights": weights["smartfrz"], "anneal": 0.7}))
    freezeout = policies.make(FreezeConfig(policy="freezeout", options={"t0": 0.7}))
    assert annealed.rates(20, 100, units) == freezeout.rates(20, 100, units)
    assert not overrides(policies.make(FreezeConfig(options={"weights": weights["smartfrz"], "anneal": 0})), "rates")
    assert not overrides(policies.make(FreezeConfig(options={"weights": weights["smartfrz"]})), "rates")


def test_the_papers_predictor_waits_for_a_full_window(weights: dict[str, str]) -> None:
    config = FreezeConfig(policy="smartfrz-paper", options={"weights": weights["smartfrz-paper"]})
    policy = policies.make(config)
    assert policy.decide(_context(config, count=29)) == []
    assert len(policy.decide(_context(config, count=30))) == len(NAMES)


def test_static_by_name_and_by_count() -> None:
    by_name = FreezeConfig(policy="static", options={"units": ["blocks.1", "stem"]})
    assert _converged(policies.make(by_name).decide(_context(by_name))) == ["stem", "blocks.1"]
    by_count = FreezeConfig(policy="static", options={"first": 3})
    frozen = frozenset({"stem"})
    assert _converged(policies.make(by_count).decide(_context(by_count, frozen=frozen))) == ["blocks.0", "blocks.1"]


def test_static_refuses_names_and_counts_that_match_nothing() -> None:
    wrong = FreezeConfig(policy="static", options={"units": ["stem", "blocks.9"]})
    with pytest.raises(ConfigError, match=r"no unit is named 'blocks.9'; units: stem") as caught:
        policies.make(wrong).decide(_context(wrong))
    assert caught.value.pointer == "/options/units/1"
    many = FreezeConfig(policy="static", options={"first": 6})
    with pytest.raises(ConfigError, match="only 5 units"):
        policies.make(many).decide(_context(many))


def test_linear_follows_composer() -> None:
    assert [frozen_count(p, 10, 0.5, 1.0) for p in (0.0, 0.5, 0.6, 0.75, 0.99, 1.0)] == [0, 0, 1, 5, 9, 10]
    assert frozen_count(1.0, 10, 0.0, 0.3) == 3
    assert frozen_count(1.0, 10, 1.0, 1.0) == 0
    config = FreezeConfig(policy="linear", options={"start": 0.0, "level": 0.8})
    assert _converged(policies.make(config).decide(_context(config, step=50))) == ["stem", "blocks.0"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_random_freezes_the_share_of_unit_steps_asked_for(share: float) -> None:
    policy = RandomPolicy(FreezeConfig(policy="random", options={"share": share}))
    frozen = [1.0 - policy.moment(f"unit{i}") for i in range(4000)]
    assert sum(frozen) / len(frozen) == pytest.approx(share, abs=0.02)


def test_random_is_seeded_and_never_takes_back() -> None:
    first, second = (FreezeConfig(policy="random", seed=seed, options={"share": 0.5}) for seed in (0, 1))
    moments = [[RandomPolicy(c).moment(n) for n in NAMES] for c in (first, first, second)]
    assert moments[0] == moments[1] != moments[2]
    policy = policies.make(first)
    sets = [set(_converged(policy.decide(_context(first, step=step)))) for step in range(0, 101, 10)]
    assert all(before <= after for before, after in itertools.pairwise(sets))
    assert sets[0] < sets[-1]


@pytest.mark.parametrize(
    ("config", "pointer", "match"),
    [
        ({"policy": "nonsense"}, "/policy", "unknown policy 'nonsense'; known: smartfrz"),
        ({"policy": "linear", "options": {"begin": 0.1}}, "/options/begin", "known: level, start"),
        ({"policy": "linear", "options": {"start": 1.5}}, "/options/start", "at most 1"),
        ({"policy": "linear", "options": {"start": "a"}}, "/options/start", "type number, not str"),
        ({"policy": "random", "options": {"share": -0.1}}, "/options/share", "at least 0"),
        ({"policy": "none", "options": {"x": 1}}, "/options/x", "known: none"),
        ({"policy": "static"}, "/options", "exactly one"),
        ({"policy": "static", "options": {"first": 1, "units": ["a"]}}, "/options", "exactly one"),
        ({"policy": "static", "options": {"first": True}}, "/options/first", "type integer, not bool"),
        ({"policy": "static", "options": {"units": ["a", 3]}}, "/options/units/1", "type string"),
        ({"policy": "smartfrz-paper"}, "/options/weights", "none are shipped"),
        ({"policy": "smartfrz-paper", "window": 12, "options": {"weights": "w"}}, "/window", "exactly 30"),
        ({"policy": "smartfrz-paper", "samples": 64, "options": {"weights": "w"}}, "/samples", "exactly 1024"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_their_place(
    config: dict[str, Any], pointer: str, match: str
) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        policies.make(FreezeConfig(**config))
    assert caught.value.pointer == pointer


def test_weights_of_another_architecture_are_refused(weights: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="'progress-only' predictor"):
        policies.make(FreezeConfig(policy="smartfrz", options={"weights": weights["progress-only"]}))
    with pytest.raises(PredictorError, match="no predictor weights"):
        policies.make(FreezeConfig(policy="smartfrz", options={"weights": "nowhere.safetensors"}))


def test_state_of_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="has no state"):
        policies.make(FreezeConfig(policy="none")).load_state_dict({"seed": 1})


def test_every_built_in_policy_has_its_options_described() -> None:
    assert set(OPTION_SCHEMAS) == set(POLICIES)


def test_registered_policies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "freezer.policies.controls:NonePolicy", policies.GROUP)
    monkeypatch.setattr(policies, "entry_points", lambda group: [point] if group == policies.GROUP else [])
    config = FreezeConfig(policy="mine", options={"anything": 1})
    check_options(config)
    assert policies.make(config).decide(_context(config)) == []
    assert policies.available() == [*POLICIES, "mine"]
