"""What the stores write, and the ids that they accept."""

from __future__ import annotations

import json

import pytest

from workers.jobs.codec import decision_step, dumps, parse_event_id


def test_json_without_what_json_does_not_know() -> None:
    nan, inf = float("nan"), float("inf")
    assert json.loads(dumps({"a": [1.5, nan, (inf,)], "b": {"c": -inf}, "d": "NaN"})) == {
        "a": [1.5, None, [None]],
        "b": {"c": None},
        "d": "NaN",
    }
    assert dumps({"a": 1, "b": []}) == '{"a":1,"b":[]}'


@pytest.mark.parametrize(("text", "key"), [("0", (0, 0)), ("12", (12, 0)), ("1700000000000-3", (1700000000000, 3))])
def test_event_ids(text: str, key: tuple[int, int]) -> None:
    assert parse_event_id(text) == key


@pytest.mark.parametrize("text", ["", "-", "$", "+", "1-", "-1", "1-2-3", "1.5", "a", " 1", "9" * 20, "1\n"])
def test_what_is_no_event_id(text: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        parse_event_id(text)


def test_a_decision_carries_its_step() -> None:
    assert decision_step({"step": 3}) == 3
    for bad in ({}, {"step": "3"}, {"step": None}):
        with pytest.raises(ValueError, match="step"):
            decision_step(bad)
