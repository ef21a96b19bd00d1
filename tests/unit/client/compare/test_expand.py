"""From a comparison to runs: the same every time, each spec what the arm says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from comparisons import DIGITS, definition
from hypothesis import given
from hypothesis import strategies as st

from client.compare import ComparisonError, Run, expand, parse
from workers.jobs.spec import JobSpec

ARMS = {
    "full": {},
    "shorter": {"fractions": [0.25, 0.5]},
    "early-stop": {},
    "linear": {"freeze.policy": "linear"},
    "random": {"freeze": {"policy": "random", "options": {"share": 0.3}}},
}


def by_arm(document: dict[str, Any], seed: int = 0) -> dict[str, Run]:
    return {run.arm: run for run in expand(parse(document)) if run.seed == seed}


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from(sorted(ARMS)), unique=True),
    st.sampled_from([["a"], ["a", "b"]]),
)
def test_expansion_is_deterministic_and_whole(seeds: list[int], names: list[str], workloads: list[str]) -> None:
    arms = {"full": {}} | {name: ARMS[name] for name in names}
    document = definition(seeds=seeds, arms=arms, workloads=dict.fromkeys(workloads, DIGITS))
    runs = expand(parse(document))
    assert runs == expand(parse(copy.deepcopy(document)))
    assert len({run.id for run in runs}) == len(runs)
    per_seed = len(runs) // len(seeds)
    for turn, seed in enumerate(seeds):  # arms and workloads interleaved, seed by seed
        assert {run.seed for run in runs[turn * per_seed : (turn + 1) * per_seed]} == {seed}
    for run in runs:
        spec = JobSpec.model_validate(run.spec)
        assert spec.training.seed == run.seed
        assert (spec.metadata["workload"], spec.metadata["arm"]) == (run.workload, run.arm)


def test_each_arm_is_what_it_says() -> None:
    runs = by_arm(definition(arms=ARMS, seeds=[7]), seed=7)
    for arm in ("full", "shorter-0.25", "shorter-0.5", "early-stop"):
        assert runs[arm].spec["freeze"] == {"policy": "none"}
    assert "max_steps" not in runs["full"].spec["training"]
    assert runs["shorter-0.25"].spec["training"]["max_steps"] == 40  # 4 epochs of 640 / 16 steps
    assert runs["early-stop"].spec["training"]["early_stop"] == {"patience": 2}
    assert runs["early-stop"].spec["data"]["validation_ratio"] == 0.1
    assert runs["linear"].spec["freeze"] == {"policy": "linear", "seed": 7}
    assert runs["random"].spec["freeze"] == {"policy": "random", "options": {"share": 0.3}, "seed": 7}


def test_an_arm_may_differ_by_workload_or_leave_one_out() -> None:
    arms = {
        "full": {},
        "linear": {"freeze.policy": "linear", "workloads": {"a": {"freeze.options": {"level": 0.5}}, "b": False}},
    }
    runs = expand(parse(definition(seeds=[0], arms=arms, workloads={"a": DIGITS, "b": DIGITS})))
    assert [run.id for run in runs] == ["a--full--0", "a--linear--0", "b--full--0"]
    assert runs[1].spec["freeze"]["options"] == {"level": 0.5}


def test_a_workload_may_have_seeds_of_its_own() -> None:
    workloads = {"a": DIGITS | {"seeds": [5]}, "b": DIGITS}
    runs = expand(parse(definition(seeds=[0, 1], arms={"full": {}}, workloads=workloads)))
    assert [run.id for run in runs] == ["a--full--5", "b--full--0", "b--full--1"]


def test_the_digest_is_of_what_changes_a_result() -> None:
    first = by_arm(definition())["linear"]
    renamed = by_arm(definition(name="other"))["linear"]
    assert renamed.digest == first.digest
    assert renamed.spec != first.spec
    longer = by_arm(definition(workloads={"digits": DIGITS | {"training": {"epochs": 5, "batch_size": 16}}}))["linear"]
    assert longer.digest != first.digest


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"workloads": {"a": DIGITS | {"training": {"epochs": 0}}}}, "/workloads/a/training/epochs"),
        ({"workloads": {"a": DIGITS | {"colour": 1}}}, "/workloads/a/colour"),
        ({"arms": {"full": {}, "x": {"training.epochs": 0, "freeze.policy": "linear"}}}, "/arms/x/training/epochs"),
        ({"arms": {"full": {}, "x": {"freeze": {"policy": "linear", "speed": 1}}}}, "/arms/x/freeze/speed"),
        ({"arms": {"full": {}, "x": {"freeze": {"policy": "linear", "window": "a"}}}}, "/arms/x/freeze"),
        ({"arms": {"full": {}, "x": {"training.epochs": 2}}}, "/arms/x/freeze/policy"),
        ({"arms": {"full": {}, "shorter": {"fractions": [0.001]}}}, "/arms/shorter/fractions"),
    ],
)
def test_the_place_of_a_fault_is_named(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        expand(parse(definition(**changes)))
    assert caught.value.pointer == pointer


def test_shorter_must_know_the_steps() -> None:
    open_end = {"model": {"name": "vgg-small"}, "data": {"name": "mnist5k"}, "training": {"epochs": 4}}
    with pytest.raises(ComparisonError) as caught:
        expand(parse(definition(workloads={"a": open_end})))
    assert caught.value.pointer == "/workloads/a/data/train_size"
    bounded = open_end | {"training": {"epochs": 4, "max_steps": 100}}
    assert by_arm(definition(workloads={"a": bounded}))["shorter-0.5"].spec["training"]["max_steps"] == 50
