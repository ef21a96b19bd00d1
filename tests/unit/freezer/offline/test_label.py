"""When a similarity curve counts as converged."""

from __future__ import annotations

import math

import pytest

from freezer.offline.label import Rule, converged_at

RULE = Rule(window=3, variance=1e-4, level=0.8)
STEPS = [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.9, 0.9, 0.9, 0.9, 0.9, 1.0], 0),  # settled before training: a pretrained layer
        ([0.1, 0.5, 0.9, 0.9, 0.9, 1.0], 20),  # back-filled to the start of the calm window
        ([0.1, 0.5, 0.9, 0.9, 0.9, 0.2], 20),  # sticky
        ([0.5, 0.5, 0.5, 0.5, 0.5, 1.0], None),  # calm but far from the finished model
        ([0.82, 0.88, 0.94, 0.82, 0.95, 1.0], None),  # near but restless
        ([0.1, 0.2, 0.3, 0.9, 0.9, 1.0], None),  # calm only with the finished model itself
        ([math.nan, 0.9, 0.9, 0.9, 0.9, 1.0], 10),
        ([math.nan] * 6, None),
        ([0.9, 1.0], None),
    ],
)
def test_rule(curve: list[float], expected: int | None) -> None:
    assert converged_at(curve, STEPS[: len(curve)], RULE) == expected
