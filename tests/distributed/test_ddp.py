"""Two real processes over gloo, and three where two would hide something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.rank_processes import PATIENCE, start, wait

pytestmark = pytest.mark.timeout(PATIENCE + 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks left the results of all scenarios."""
    return run_ranks(tmp_path_factory.mktemp("ranks"), 2)


def run_ranks(folder: Path, world: int, *scenarios: str) -> Path:
    """Run scenarios, by default all; fails with the ranks' output if one does not finish."""
    wait(start("tests.distributed.ranks", world, folder, *scenarios))
    return folder


def results_of(scenario: str, folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / scenario / f"{rank}.json").read_text()) for rank in range(2)]


def succeed(scenario: str, folder: Path) -> list[dict[str, Any]]:
    results = results_of(scenario, folder)
    assert not any("error" in result for result in results), results
    return results


def test_bytes_really_reduced_equal_the_bytes_of_active_parameters(folder: Path) -> None:
    results = succeed("bytes", folder)
    for result in results:
        assert result["seen"] == result["expected"]
        assert result["seen"][0] == result["whole"]
        assert result["seen"][-1] < result["seen"][3] < result["seen"][0]
        assert result["frozen"] == ["conv", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"]
        figures = result["report"]["allreduce_bytes"]
        assert figures == {"measured": sum(result["seen"]), "full_training_estimate": 8 * result["whole"]}
    assert results[0]["report"]["history"] == results[1]["report"]["history"]
    weights = [torch.load(folder / "bytes" / f"{rank}.pt", weights_only=True) for rank in range(2)]
    moved_alone = [n for n in weights[0] if "running" not in n and not torch.equal(weights[0][n], weights[1][n])]
    assert not moved_alone, "ranks hold different weights"
    assert results[0]["windows"]
    assert not results[1]["windows"], "only rank 0 records"


def test_gradients_stay_the_mean_over_ranks_after_freeze_and_thaw(folder: Path) -> None:
    for result in succeed("same_gradients", folder):
        assert max(error for error, _ in result["worst"]) < 1e-6
        assert result["memories"] == [1] * 8, "gradients live in the one bucket, not beside it"
        counts = [count for _, count in result["worst"]]
        assert counts[4] == counts[0] - 3, "conv's weight and its norm have no gradient"
        assert counts[5:] == counts[:1] * 3, "thawed units are trained again"


def test_accumulation_reduces_once_a_step_and_unused_layers_do_not_break_ddp(folder: Path) -> None:
    for result in succeed("accumulate", folder):
        assert result["seen"][-1] == result["active"]
        assert result["syncs"] == 6


def test_layers_that_run_in_training_alone_are_synchronised(folder: Path) -> None:
    for result in succeed("training_only", folder):
        assert result["differ"] == []
        assert result["still"] == [], "they are trained"
        assert result["frozen"] == ["first"]
        assert result["full"][0] == result["full"][1]


def test_a_layer_that_comes_into_use_unsynchronised_is_named_at_its_first_step(folder: Path) -> None:
    for result in results_of("late_use", folder):
        assert result["error"] == "VerificationError"
        assert "took no part when the model was surveyed" in result["text"]
        assert result["text"].startswith(("aux.", "deep."))


def test_a_pass_that_ddp_does_not_see_ends_the_run_before_its_update(folder: Path) -> None:
    for result in results_of("past_ddp", folder):
        assert result["error"] == "VerificationError"
        assert "did not synchronise" in result["text"]
        assert "freezer.model(...)" in result["text"]
        assert result["moved"] == []
        assert result["syncs"] == [0, 0]


def test_a_second_backward_pass_is_told_of_on_the_rank_that_made_it(folder: Path) -> None:
    once, twice = results_of("second_backward", folder)
    assert once == {}
    assert twice["error"] == "VerificationError"


def test_every_way_to_synchronise_is_taken_for_one(folder: Path) -> None:
    for result in succeed("every_way", folder):
        assert result["differ"] == []
        assert result["syncs"] == 10
        assert result["frozen"] == ["image"]
        assert result["seen"] == [240] * 5 + [160] * 5, "three layers of 20 numbers, then two"


@pytest.mark.timeout(2 * PATIENCE)
def test_two_groups_train_beside_each_other(tmp_path: Path) -> None:
    """Their control groups must not meet, and wait as long as the groups that they serve."""
    run_ranks(tmp_path, 4, "subgroups")
    results = [json.loads((tmp_path / "subgroups" / f"{rank}.json").read_text()) for rank in range(4)]
    assert not any("error" in result for result in results), results
    for rank, result in enumerate(results):
        mine = rank // 2
        frozen = ["conv"] if mine else ["conv", "layer1.0.conv1"]
        assert result["heard"] == [[mine, 0, frozen], [mine, 1, frozen]]
        assert result["timeout"] == 77


def test_resume_on_two_ranks_is_bit_identical(folder: Path) -> None:
    for result in succeed("resume", folder):
        assert result["equal"]
        assert result["plans"][0] == result["plans"][1]
        assert [entry["step"] for entry in result["histories"][0]] == [7, 17, 23]
        assert result["histories"][0] == result["histories"][1]
        assert result["windows"]
        assert result["bytes"][0] == result["bytes"][1]


def test_resume_on_three_ranks_is_bit_identical_too(tmp_path: Path) -> None:
    """From three on, the order of a sum depends on the buckets' order."""
    run_ranks(tmp_path, 3, "resume")
    for result in results_of("resume", tmp_path):
        assert result["equal"]


def test_a_run_goes_on_with_another_number_of_ranks(folder: Path) -> None:
    first, second = succeed("other_ranks", folder)
    assert first["frozen"] == ["conv", "layer1.0.conv1", "layer1.0.conv2"]
    assert [entry["step"] for entry in first["history"]] == [6, 10, 14]
    assert (first["history"], first["shares"]) == (second["history"], second["shares"])
    (_, alone, _), (_, together, reduced), (steps, whole, still) = first["shares"]
    step = alone / 5
    assert steps == 16
    assert (together, whole) == (alone + 4 * 2 * step, together + 7 * step), "two ranks do the work of two"
    assert still == reduced > 0, "one process reduces nothing"


def test_layers_that_the_user_unfreezes_are_reduced_too(folder: Path) -> None:
    for result in succeed("unfrozen_by_the_user", folder):
        assert result["equal"]
        assert result["more"] == result["embedding"]


@pytest.mark.parametrize("scenario", ["disagree_units", "disagree_steps", "unfrozen_on_one_rank"])
def test_ranks_that_disagree_stop_all_together(folder: Path, scenario: str) -> None:
    for result in results_of(scenario, folder):
        assert result["error"] == "AgreementError"
        assert "rank 1" in result["text"]


def test_rank_zero_error_reaches_every_rank(folder: Path) -> None:
    for result in results_of("policy_fails", folder):
        assert result["error"] == "PlanError"
        assert "no such unit" in result["text"]


def test_a_change_that_fails_on_one_rank_stops_all(folder: Path) -> None:
    """The others must not wait in the next collective for one that gave up."""
    sound, broken = results_of("one_rank_fails", folder)
    assert broken["error"] == "VerificationError"
    assert "frozen unit 'conv' moved" in broken["text"]
    assert sound["error"] == "AgreementError"
    assert "rank 1: frozen unit 'conv' moved" in sound["text"]


def test_what_rank_zero_notices_as_a_stage_begins_reaches_every_rank(folder: Path) -> None:
    for result in results_of("stage_fails", folder):
        assert result["error"] == "VerificationError"
        assert "frozen unit 'conv' moved" in result["text"]
    assert results_of("stage_fails", folder)[1]["text"].startswith("rank 0: ")
