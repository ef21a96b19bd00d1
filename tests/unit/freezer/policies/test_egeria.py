"""Egeria by hand: int8, plasticity, its slope, thawing with the rate, and an exact resume beside an untouched model."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.policies.egeria import EgeriaPolicy, slope, smoothed
from freezer.policies.replica import Int8, Replica, tensors_of
from freezer.similarity import similarity_preserving_loss
from freezer.units import discover
from tests.unit.freezer.policies.driving import Layers, Run, batch


def _policy(**options: Any) -> EgeriaPolicy:
    return EgeriaPolicy(FreezeConfig(policy="egeria", options={"tolerance": 10.0, **options}))


def test_int8_is_symmetric_with_a_scale_for_each_channel() -> None:
    rounded = Int8.of(torch.tensor([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0], [-254.0, 3.1, 0.9]]))
    assert rounded.values.tolist() == [[127, -50, 0], [0, 0, 0], [-127, 2, 0]]
    assert rounded.scales.flatten().tolist() == pytest.approx([0.01, 0.0, 2.0])
    assert torch.allclose(rounded.back()[2], torch.tensor([-254.0, 4.0, 0.0]))
    kernel = torch.randn(4, 3, 5, 5)
    error = (Int8.of(kernel).back() - kernel).abs()
    assert bool((error <= Int8.of(kernel).scales * 0.5001).all())


def test_smoothing_and_slope() -> None:
    assert smoothed([3.0, 1.0, 2.0, 6.0], 3) == [3.0, 2.0, 2.0, 3.0]
    assert slope([1.0, 2.0, 3.0]) == 0.5  # 1 a stage, mean 2
    assert slope([4.0, 4.0]) == 0.0
    assert slope([0.0, 0.0]) == 0.0
    assert slope([2.0, 1.0, 3.0, 2.0]) == pytest.approx(0.1)


def test_the_replica_gives_the_blocks_outputs_under_other_weights() -> None:
    torch.manual_seed(0)
    model, probe = Layers(), batch(0)
    units = discover(model, (probe,), {}, "layer")
    replica = Replica(model, units, ((probe,), {}))
    weights = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in tensors_of(model).items()}
    weights = {name: t.abs() if "running_var" in name else t for name, t in weights.items()}
    stem = nn.functional.linear(probe, weights["stem.weight"], weights["stem.bias"])
    assert torch.equal(replica.activation(weights, "stem"), stem)
    model.load_state_dict(weights)
    assert torch.equal(replica.activation(weights, "blocks.0"), model.eval().blocks[0](stem))


def test_plasticity_is_measured_against_the_int8_of_one_stage_before() -> None:
    run = Run(lambda: _policy(window=8))
    run.watch()
    run.go(2)
    then = {name: t.clone() for name, t in tensors_of(run.model).items()}
    run.go(4)
    probe, policy = batch(0), run.policy
    assert isinstance(policy, EgeriaPolicy)
    reference = nn.functional.linear(probe, Int8.of(then["stem.weight"]).back(), then["stem.bias"])
    with torch.no_grad():
        expected = similarity_preserving_loss(run.model.stem(probe), reference)
    assert policy.series == [expected]
    assert expected > 0.0


def test_front_blocks_freeze_one_after_another_and_never_the_last() -> None:
    run = Run(lambda: _policy(window=2, patience=1))
    run.watch()
    run.go(24)
    said = [(step, [v.unit for v in verdicts]) for step, verdicts in run.said if verdicts]
    # a first stage for the reference, then two plasticities for each block
    assert said == [(6, ["stem"]), *((10 + 4 * i, [f"blocks.{i}.0", f"blocks.{i}.4"]) for i in range(3))]
    slow = Run(lambda: _policy(window=2, patience=3))
    slow.watch()
    slow.go(10)
    assert [step for step, verdicts in slow.said if verdicts] == [10]
    steep = Run(lambda: _policy(window=2, patience=1, tolerance=0.0))
    steep.watch()
    steep.go(24)
    assert not any(verdicts for _, verdicts in steep.said)


def test_a_tenth_of_the_rate_thaws_everything_and_refreezes_faster() -> None:
    run = Run(lambda: _policy(window=4, patience=2), total=40)
    run.rates = {0: 0.001, 2: 0.1, 20: 0.05, 24: 0.01}  # a warm-up is no fall, a half is not enough
    run.watch()
    run.go(26)
    policy = run.policy
    assert isinstance(policy, EgeriaPolicy)
    frozen = [(step, [v.unit for v in verdicts if v.converged]) for step, verdicts in run.said[:12] if verdicts]
    assert frozen == [(12, ["stem"]), (22, ["blocks.0.0", "blocks.0.4"])]
    assert run.said[12] == (26, [v for v in run.said[12][1] if v.thaw and not v.converged])
    assert [v.unit for v in run.said[12][1]] == ["stem", "blocks.0.0", "blocks.0.4"]
    assert (policy.window, policy.patience) == (2, 1)
    run.go(40)
    again = [(step, verdicts[0].unit) for step, verdicts in run.said[13:] if verdicts]
    assert again == [(30, "stem"), (34, "blocks.0.0"), (38, "blocks.1.0")]


def test_a_reference_is_kept_for_so_many_stages() -> None:
    run = Run(lambda: _policy(window=9, reference_every=3))
    run.watch()
    seen = []
    for stage in range(1, 9):
        run.go(2 * stage)
        seen.append(run.policy.state_dict()["exact"]["stem.bias"])
    kept = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert kept == [True, True, False, True, True, False, True]


def test_pinned_blocks_are_passed_over() -> None:
    run = Run(lambda: _policy(window=2, patience=1))
    run.watch()
    pinned = FreezeConfig(policy="none", pin=("stem", "blocks.0"), mode="any")
    run.every = 100  # the stages are those below
    for step in range(1, 4):
        run.go(2 * step - 1)
        said = run.policy.decide(run.context(run.policy.collect(0), pinned))
    assert [v.unit for v in said] == ["blocks.1.0", "blocks.1.4"]


def test_the_model_is_not_touched() -> None:
    run = Run(lambda: _policy(window=2, patience=1))
    calls: list[int] = []
    run.model.stem.register_forward_hook(lambda *_: calls.append(threading.get_ident()))
    run.model.blocks[0].eval()
    before = {name: t.clone() for name, t in tensors_of(run.model).items()}
    flags = [module.training for module in run.model.modules()]
    state = torch.get_rng_state()
    run.watch()
    for _ in range(3):
        context = run.context(run.policy.collect(0))
        thread = threading.Thread(target=run.policy.decide, args=(context,))
        thread.start()
        thread.join()
    assert len(run.policy.state_dict()["series"]) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in run.model.modules()] == flags
    assert all(torch.equal(t, before[name]) for name, t in tensors_of(run.model).items())
    assert calls == []
    assert all(p.grad is None and p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize("cut", [1, 6, 9, 13, 17, 19])
def test_a_resume_says_the_same(cut: int) -> None:
    """Before and after freezes and a thaw; the first batch after it is another one, the probe is not."""

    def make() -> EgeriaPolicy:
        return _policy(window=2, patience=2, tolerance=0.8, reference_every=2)

    rates = {16: 0.01}
    whole = Run(make)
    whole.rates = rates
    whole.watch()
    whole.go(24)
    assert [any(v.thaw for v in verdicts) for _, verdicts in whole.said].count(True) == 1
    assert any(v.converged for _, verdicts in whole.said for v in verdicts)
    first = Run(make)
    first.rates = rates
    first.watch()
    first.go(cut)
    second = first.resumed(make)
    second.go(24)
    assert first.said + second.said == whole.said
    assert isinstance(whole.policy, EgeriaPolicy)
    assert isinstance(second.policy, EgeriaPolicy)
    assert second.policy.series == whole.policy.series
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True))


@pytest.mark.parametrize("cut", [3, 5, 8])
def test_the_next_reference_comes_when_it_would_have_come(cut: int) -> None:
    def make() -> EgeriaPolicy:
        return _policy(window=9, reference_every=3)

    whole, first = Run(make), Run(make)
    whole.watch()
    whole.go(14)
    first.watch()
    first.go(cut)
    second = first.resumed(make)
    second.go(14)
    states = [run.policy.state_dict() for run in (whole, second)]
    assert states[0]["series"] == states[1]["series"]
    assert states[0]["age"] == states[1]["age"]
    assert torch.equal(states[0]["int8"]["stem.weight"]["values"], states[1]["int8"]["stem.weight"]["values"])


class Noisy(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Broken(Layers):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("no kernel")


def test_models_that_cannot_run_beside_training_are_refused() -> None:
    units = discover(Layers(), (batch(0),), {}, "layer")

    def watch(model: nn.Module, *args: Any) -> None:
        _policy().watch(model, torch.optim.SGD(model.parameters(), lr=0.1), units, (args, {}))

    noisy = Noisy()
    state = torch.get_rng_state()
    with pytest.raises(ConfigError, match="draws random numbers in eval mode"):
        watch(noisy, batch(0))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ConfigError, match="no kernel"):
        watch(Broken(), batch(0))
    with pytest.raises(ConfigError, match="two or more samples; block 'stem' gave shape"):
        watch(Layers(), batch(0)[:1])
    with pytest.raises(ConfigError, match="cannot keep a Thread"):
        watch(Layers(), threading.Thread())
    old = Layers()
    old.stem = nn.utils.spectral_norm(old.stem)
    with pytest.raises(
        ConfigError, match=r"'stem' uses SpectralNorm as a hook: use torch\.nn\.utils\.parametrizations"
    ):
        watch(old, batch(0))
    held = Layers()
    held.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="cannot copy the model"):
        watch(held, batch(0))
