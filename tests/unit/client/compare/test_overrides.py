"""Changes of a spec: what merges, what replaces, and that the original stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.compare.errors import ComparisonError
from client.compare.overrides import changed

SPEC: dict[str, Any] = {"training": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}}, "freeze": {"pin": ["a"]}}
JSON = st.recursive(
    st.sampled_from([None, True, 3, "x", [], [1, 2]]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def test_objects_merge_and_all_else_replaces() -> None:
    nested = changed(SPEC, {"training": {"optimizer": {"lr": 0.2}}, "freeze": {"pin": ["b"]}}, "/arms/x")
    assert nested["training"] == {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.2}}
    assert nested["freeze"] == {"pin": ["b"]}


def test_dotted_names_and_lines_say_the_same() -> None:
    dotted = changed(SPEC, {"training.optimizer.lr": 0.2, "data.options.max_length": 40}, "")
    lines = changed(SPEC, ["training.optimizer.lr=0.2", "data.options.max_length=40"], "")
    assert dotted == lines
    assert dotted["data"] == {"options": {"max_length": 40}}


@given(OBJECTS, OBJECTS)
def test_what_was_set_is_there_and_the_original_is_as_before(spec: dict[str, Any], overrides: dict[str, Any]) -> None:
    before = copy.deepcopy(spec)
    once = changed(spec, overrides, "")
    assert spec == before
    assert changed(once, overrides, "") == once
    for name, value in overrides.items():
        assert once[name] == value or isinstance(value, dict)
    for name in spec.keys() - overrides.keys():
        assert once[name] == spec[name]


@pytest.mark.parametrize(
    ("overrides", "pointer"),
    [
        ({"training.epochs.x": 1}, "/arms/x/training.epochs.x"),
        ({"a..b": 1}, "/arms/x/a..b"),
        (["training.epochs=2", "nonsense"], "/arms/x/1"),
        ([3], "/arms/x/0"),
        ("linear", "/arms/x"),
    ],
)
def test_the_place_of_a_fault_is_named(overrides: object, pointer: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        changed(SPEC, overrides, "/arms/x")
    assert caught.value.pointer == pointer
