"""Freezing over time: the share of seeds, thawing included, units in execution order."""

from __future__ import annotations

from comparisons import UNITS, report

from client.compare.timeline import frozen_share, timeline, unit_names


def records(*histories: list[tuple[int, list[str], list[str]]]) -> dict[int, dict[str, object]]:
    units = [{"name": name, "index": index} for index, name in enumerate(UNITS)]
    return {seed: {"units": units, "report": report(0.9, 90.0, history=h)} for seed, h in enumerate(histories)}


def test_shares_follow_freezing_and_thawing() -> None:
    found = timeline("w", "a", records([(40, ["stem", "block.0"], []), (80, [], ["block.0"])], [(80, ["stem"], [])]))
    assert found is not None
    edges, shares = frozen_share(found)
    assert edges == [0, 40, 80, 160]
    assert shares == [[0.0, 0.5, 1.0], [0.0, 0.5, 0.0], [0.0] * 3, [0.0] * 3]


def test_what_is_frozen_before_the_first_step_counts_from_the_first() -> None:
    found = timeline("w", "a", records([(0, ["stem"], [])]))
    assert found is not None
    assert frozen_share(found) == ([0, 160], [[1.0], [0.0], [0.0], [0.0]])


def test_an_arm_that_never_froze_has_none() -> None:
    assert timeline("w", "a", records([], [])) is None
    assert timeline("w", "a", {}) is None


def test_units_that_the_service_did_not_tell_follow_in_the_order_of_freezing() -> None:
    told = {"units": [], "report": report(0.9, 90.0, history=[(1, ["b", "a"], []), (2, ["c"], [])])}
    assert unit_names([told]) == ["b", "a", "c"]
