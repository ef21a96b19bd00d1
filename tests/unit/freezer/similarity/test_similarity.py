"""Minibatch unbiased linear CKA against its known values."""

from __future__ import annotations

import math

import pytest
import torch

from freezer.similarity import gram, hsic1, minibatch_cka


def _features(seed: int, n: int = 48, width: int = 24) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_identical_representations_have_similarity_one() -> None:
    grams = [gram(_features(seed)) for seed in range(3)]
    assert minibatch_cka(grams, grams) == pytest.approx(1.0, abs=1e-12)


def test_invariant_under_rotation_and_isotropic_scale() -> None:
    rotation, _ = torch.linalg.qr(_features(9, 24, 24).double())
    plain = [gram(_features(seed).double()) for seed in range(3)]
    turned = [gram(3.7 * _features(seed).double() @ rotation) for seed in range(3)]
    assert minibatch_cka(plain, turned) == pytest.approx(1.0, abs=1e-9)


def test_not_invariant_under_a_general_linear_map() -> None:
    stretch = torch.diag(torch.tensor([30.0] + [1.0] * 23))
    plain = [gram(_features(seed)) for seed in range(3)]
    assert minibatch_cka(plain, [gram(_features(seed) @ stretch) for seed in range(3)]) < 0.8


def test_unbiased_for_independent_representations() -> None:
    """The biased estimate is about 0.5 here: few samples, many features."""
    values = [
        minibatch_cka([gram(_features(seed, 16, 64))], [gram(_features(1000 + seed, 16, 64))]) for seed in range(200)
    ]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / len(values))
    assert abs(mean) < 4 * spread
    assert abs(mean) < 0.02


def test_matches_the_equation_written_out() -> None:
    k, l = gram(_features(1, 7)), gram(_features(2, 7))  # noqa: E741
    n = 7
    kt, lt, one = k - torch.diag(k.diag()), l - torch.diag(l.diag()), torch.ones(n, dtype=torch.float64)
    by_hand = (
        torch.trace(kt @ lt)
        + (one @ kt @ one) * (one @ lt @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ kt @ lt @ one)
    ) / (n * (n - 3))
    assert float(hsic1(k, l)) == pytest.approx(float(by_hand), rel=1e-12)


def test_convolution_maps_are_flattened_and_inputs_left_alone() -> None:
    maps = torch.randn(6, 3, 4, 4)
    k = gram(maps)
    before = k.clone()
    hsic1(k, k)
    assert k.shape == (6, 6)
    assert torch.equal(k, before)


def test_constant_representation_is_not_a_number() -> None:
    assert math.isnan(minibatch_cka([gram(torch.zeros(8, 3))], [gram(_features(1, 8))]))


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ([torch.eye(3)], [torch.eye(3)], "at least 4"),
        ([torch.eye(5)], [torch.eye(6)], "one size"),
        ([torch.eye(5)], [], "same minibatches"),
    ],
)
def test_impossible_input_is_refused(first: list[torch.Tensor], second: list[torch.Tensor], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        minibatch_cka(first, second)
