"""The judgement of a comparison's table, and that the comparisons can be run at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.policies import judge as module
from benchmarks.policies.judge import judge
from benchmarks.policies.leftout import with_leftout
from client.compare import expand, parse

KINDS = {"a": "fine-tuning", "b": "scratch"}


def stat(value: float) -> dict[str, float]:
    return {"mean": value}


WORSE = {"accuracy_difference": stat(-0.1), "flops_ratio": stat(1.0)}


def row(workload: str, **changes: Any) -> dict[str, Any]:
    rival = {"accuracy_difference": stat(0.01), "flops_ratio": stat(0.9)}
    return {
        "workload": workload,
        "arm": "smartfrz",
        "accuracy_difference": stat(-0.001),
        "flops_speedup": 2.6,
        "train_seconds_ratio": stat(0.39),
        "equal_compute_difference": stat(0.001),
        "against": {"early-stop": rival, "linear": dict(rival)},
        **changes,
    }


def test_everything_kept() -> None:
    listed = judge([row("a"), row("b")], KINDS)
    assert all(entry["ok"] for entry in listed), listed
    assert {frozenset(entry) for entry in listed} == {frozenset({"measure", "value", "bound", "ok"})}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"accuracy_difference": stat(-0.003)}, "a: accuracy against full training"),
        ({"flops_speedup": 2.4}, "a: FLOPs, full / ours"),
        ({"train_seconds_ratio": stat(0.5)}, "a: seconds of training, full / ours"),
        (
            {"equal_compute_difference": stat(-0.001)},
            "accuracy against shortened full training at equal FLOPs: the worst",
        ),
        ({"against": {"early-stop": {"accuracy_difference": stat(0.1), "flops_ratio": stat(1.1)}}}, "early stopping"),
        (
            {
                "against": {
                    **row("a")["against"],
                    "egeria": {"accuracy_difference": stat(-0.1), "flops_ratio": stat(1.0)},
                }
            },
            "accuracy against other policies",
        ),
    ],
)
def test_each_promise_can_be_broken(changes: dict[str, Any], broken: str) -> None:
    listed = judge([row("a", **changes), row("b")], KINDS)
    assert any(entry["measure"].startswith(broken) for entry in listed if not entry["ok"]), listed


def test_a_rival_that_spends_less_is_another_matter() -> None:
    cheap = {**row("a")["against"], "linear": {"accuracy_difference": stat(-0.1), "flops_ratio": stat(1.2)}}
    assert all(entry["ok"] for entry in judge([row("a", against=cheap), row("b")], KINDS))


def test_our_own_other_settings_are_no_rivals() -> None:
    with_own = {**row("a")["against"], "smartfrz-fast": WORSE}
    assert all(entry["ok"] for entry in judge([row("a", against=with_own), row("b")], KINDS))


def test_what_was_not_measured_is_not_kept() -> None:
    listed = judge([row("a")], KINDS)
    assert {e["measure"] for e in listed if e["value"] is None} >= {"b: FLOPs, full / ours"}
    assert not any(e["ok"] for e in listed if e["value"] is None)


@pytest.mark.parametrize("name", ["workloads", "quick"])
def test_the_comparisons_can_be_run(tmp_path: Path, name: str) -> None:
    document = json.loads((Path(module.__file__).parent / f"{name}.json").read_text())
    kinds = document.pop("kinds")
    halves = document.pop("halves", {})
    runs = expand(parse(with_leftout(document, tmp_path)))
    assert {run.workload for run in runs} == set(kinds)
    assert sorted(w for half in halves.values() for w in half) == (sorted(kinds) if halves else [])
    assert {run.arm for run in runs} >= {"full", "early-stop", "smartfrz"}


def test_arms_on_a_shortened_recipe_have_the_steps_of_its_calendar(tmp_path: Path) -> None:
    folder = Path(module.__file__).parent
    document = json.loads((folder / "workloads.json").read_text())
    kinds = document.pop("kinds")
    del document["halves"]
    document["arms"] = json.loads((folder / "limits.json").read_text())["arms"]
    runs = expand(parse(with_leftout(document, tmp_path)))
    steps = {(run.workload, run.arm): run.spec["training"].get("max_steps") for run in runs}
    cut = {key: value for key, value in steps.items() if "-of-" in key[1]}
    assert {workload for workload, _ in cut} == set(kinds)
    assert cut == {(workload, arm): steps[workload, f"shorter-{arm.split('-')[-1]}"] for workload, arm in cut}


def test_learned_policies_never_saw_the_network(tmp_path: Path) -> None:
    folder, data = tmp_path / "leftout", tmp_path / "data"
    folder.mkdir()
    own = folder / "smartfrz-without-vgg-small.safetensors"
    own.write_bytes(b"first")
    document = {
        "workloads": {"vgg": {"model": {"name": "vgg-small"}}, "own": {"model": {"name": "custom"}}},
        "arms": {
            "full": {},
            "smartfrz": {"freeze.policy": "smartfrz"},
            "fast": {"freeze.policy": "smartfrz", "workloads": {"vgg": {"freeze.aggressiveness": "fast"}}},
            "never": {"freeze.policy": "smartfrz", "workloads": {"vgg": False}},
            "mine": {"freeze.policy": "smartfrz", "freeze.options.weights": "mine.safetensors"},
            "linear": {"freeze.policy": "linear"},
        },
    }
    before = json.dumps(document)
    arms = with_leftout(document, data, folder)["arms"]
    weights = arms["smartfrz"]["workloads"]["vgg"]
    assert (data / weights["freeze.options.weights"]).read_bytes() == b"first"
    assert json.dumps(document) == before
    assert arms["smartfrz"]["workloads"] == {"vgg": weights}
    assert arms["fast"]["workloads"] == {"vgg": {**weights, "freeze.aggressiveness": "fast"}}
    assert arms["never"]["workloads"] == {"vgg": False}
    assert "workloads" not in arms["mine"]
    assert "workloads" not in arms["linear"]
    own.write_bytes(b"second")
    other = with_leftout(document, data, folder)["arms"]["smartfrz"]["workloads"]["vgg"]
    assert other != weights, "runs with other weights are other runs"
    assert (data / other["freeze.options.weights"]).read_bytes() == b"second"
