"""Figures with their units."""

from __future__ import annotations

import pytest

from client.cli.output import measure


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("wall_seconds", 7.555, "7.55 s"),
        ("wall_seconds", 125.0, "2:05"),
        ("flops_ratio", 0.823, "82.3%"),
        ("allreduce_bytes_full_training", 3 * 2**20, "3.0 MiB"),
        ("flops_saved", 123_456_789_012, "1.23e+11"),
        ("accuracy", 0.5, 0.5),
        ("flops_ratio", None, None),
        ("resumed_seconds", True, True),
    ],
)
def test_a_figure_is_shown_in_the_unit_of_its_name(name: str, value: object, shown: object) -> None:
    assert measure(name, value) == shown
