"""The file: what it may say, and where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comparisons import DIGITS, definition

from client.compare import ComparisonError, Folder, expand, load, parse


def test_a_file_is_read_in_json_and_toml(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(definition()))
    text = 'seeds = [0]\n[workloads.w.model]\nname = "vgg-small"\n[workloads.w.data]\nname = "mnist5k"\n[arms.full]\n'
    (tmp_path / "c.toml").write_text(text)
    assert [arm.name for arm in load(str(tmp_path / "c.json")).arms] == [
        "full",
        "shorter-0.5",
        "shorter-0.75",
        "early-stop",
        "linear",
    ]
    assert load(str(tmp_path / "c.toml")).workloads[0].seeds == (0,)
    with pytest.raises(ComparisonError, match="cannot read"):
        load(str(tmp_path / "none.json"))


def test_two_of_one_name_are_refused_and_not_the_first_forgotten(tmp_path: Path) -> None:
    text = json.dumps(definition(workloads={"a": DIGITS, "b": DIGITS})).replace('"b"', '"a"')
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ComparisonError, match="'a' stands twice"):
        load(str(tmp_path / "c.json"))


def test_the_longest_names_still_name_a_file(tmp_path: Path) -> None:
    arms = {"full": {}, "b" * 64: {"freeze.policy": "linear"}}
    run = expand(parse(definition(workloads={"a" * 64: DIGITS}, seeds=[2**31 - 1], arms=arms)))[-1]
    Folder(tmp_path).write(run, {"status": "succeeded"})
    assert Folder(tmp_path).read(run) is not None
    (tmp_path / "runs" / f".{run.id}.report").touch()


def test_kinds_follow_from_names() -> None:
    arms = {"full": {}, "early-stop": {}, "early-stop-5": {}, "shorter": {"fractions": [0.5]}, "mine": {}}
    found = {arm.name: arm.kind for arm in parse(definition(arms=arms)).arms}
    assert found == {
        "full": "full",
        "early-stop": "early-stop",
        "early-stop-5": "early-stop",
        "shorter-0.5": "shorter",
        "mine": "policy",
    }


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"seed": [1]}, "/seed"),
        ({"test_from": "validation"}, "/test_from"),
        ({"name": "a/b"}, "/name"),
        ({"seeds": []}, "/seeds"),
        ({"seeds": [1, 1]}, "/seeds"),
        ({"seeds": [True]}, "/seeds"),
        ({"workloads": {}}, "/workloads"),
        ({"workloads": {"a--b": DIGITS}}, "/workloads/a--b"),
        ({"workloads": {"größe": DIGITS}}, "/workloads/größe"),
        ({"workloads": {"a" * 65: DIGITS}}, f"/workloads/{'a' * 65}"),
        ({"arms": {"full": {}, "b" * 65: {"freeze.policy": "linear"}}}, f"/arms/{'b' * 65}"),
        ({"workloads": {"a": DIGITS | {"freeze": {}}}}, "/workloads/a/freeze"),
        ({"workloads": {"a": DIGITS | {"training": {"seed": 1}}}}, "/workloads/a/training/seed"),
        ({"workloads": {"a": DIGITS | {"seeds": [-1]}}}, "/workloads/a/seeds"),
        ({"arms": {"linear": {}}}, "/arms"),
        ({"arms": {"full": {"training.epochs": 9}}}, "/arms/full/training.epochs"),
        ({"arms": {"full": ["training.epochs=9"]}}, "/arms/full"),
        ({"arms": {"full": {}, "shorter": {}}}, "/arms/shorter/fractions"),
        ({"arms": {"full": {}, "shorter": {"fractions": [0.5, 1.5]}}}, "/arms/shorter/fractions/1"),
        ({"arms": {"full": {}, "shorter": {"fractions": [0.5, 0.5]}}}, "/arms/shorter"),
        ({"arms": {"full": {}, "x": {"workloads": {"none": {}}}}}, "/arms/x/workloads/none"),
        ({"arms": {"full": {"workloads": {"digits": False}}}}, "/arms/full/workloads"),
        ({"bounds": [{"arm": "none"}]}, "/bounds/0/arm"),
        ({"bounds": [{"arm": "full", "measure": "beauty"}]}, "/bounds/0/measure"),
        ({"bounds": [{"arm": "full", "measure": "accuracy"}]}, "/bounds/0"),
        ({"bounds": [{"arm": "full", "measure": "accuracy", "at_least": "x"}]}, "/bounds/0"),
        (
            {"bounds": [{"arm": "full", "measure": "accuracy", "at_least": 1, "workloads": ["x"]}]},
            "/bounds/0/workloads",
        ),
    ],
)
def test_the_place_of_a_fault_is_named(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        parse(definition(**changes))
    assert caught.value.pointer == pointer
    assert str(caught.value).startswith(f"{pointer}: ")


def test_without_seeds_anywhere_it_says_so() -> None:
    document = definition()
    del document["seeds"]
    with pytest.raises(ComparisonError, match="no seeds for workload 'digits'"):
        parse(document)
