"""The facts about freezing under PyTorch, in two real processes: that plain PyTorch does as told, and that we do right.

=====================================================  ============================================================
fact                                                   shown by
=====================================================  ============================================================
1  ``requires_grad`` under a live DDP wrapper          here; ours: ``test_ddp`` (gradients stay the mean), here
2  ``find_unused_parameters`` saves no byte            here; ours: ``test_ddp`` (bytes really reduced)
3  ranks that disagree                                 here; ours: ``test_ddp`` (stop all together)
4  FSDP                                                refused: ``unit/freezer/test_freezer`` (sharded models)
5  a dead peer                                         ``distributed/test_ranks``, ``chaos``
6  ``grad = None``, not zero                           ``unit/freezer/test_apply``
7  every parameter stays in the optimizer              here; ours: ``test_apply``, ``test_moments``
8  ``set_optimizer_state_dict`` drops frozen state     here; ours: ``test_moments`` (plain loading)
9  ``GradScaler`` with nothing trained                 here, and with a frozen prefix
10 ``train()`` wakes frozen norms                      here; ours: ``test_apply``, and over ranks here
11 tied weights; patterns that match nothing           ``test_apply``, ``test_units``, ``test_planner``
12 execution order                                     ``test_units``
13 reentrant activation checkpointing                  here; ours: ``test_guard``, and over ranks here
14 ``torch.compile``                                   refused: ``test_freezer`` (compiled models)
15 what a step costs                                   ``test_cost``
16 decisions off the critical path                     ``test_freezer`` (a slow policy), ``test_recorder``
17, 18, 19 forward cache                               ``unit/freezer/cache``
20, 21 resume; assertions after each event             ``test_ddp``, ``test_freezer``; ``test_apply`` (verification)
=====================================================  ============================================================
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.distributed.test_ddp import results_of
from tests.support.rank_processes import PATIENCE, start, wait

pytestmark = pytest.mark.timeout(PATIENCE + 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks left the results of all scenarios."""
    folder = tmp_path_factory.mktemp("facts")
    wait(start("tests.distributed.facts", 2, folder))
    return folder


class TestPlainPyTorch:
    def test_freezing_under_a_live_wrapper_desynchronises_in_silence_and_then_raises(self, folder: Path) -> None:
        for result in results_of("plain_freeze_under_a_live_wrapper", folder):
            assert result["before"] == 0
            assert result["after"] > 1e-3, "active gradients differ between ranks, and nothing was raised"
            assert "Expected to have finished reduction" in result["second"]

    def test_thawing_under_a_live_wrapper_is_never_synchronised(self, folder: Path) -> None:
        for result in results_of("plain_thaw_under_a_live_wrapper", folder):
            assert min(result["thawed"][1:]) > 1e-3
            assert result["others"] == [0, 0, 0, 0]

    def test_find_unused_parameters_saves_no_byte_and_a_fresh_wrapper_all(self, folder: Path) -> None:
        for result in results_of("plain_unused", folder):
            assert result["find_unused"] == result["full"]
            assert result["fresh"] * 3 == result["full"]

    def test_equal_counts_of_different_layers_pass_and_drift_apart_and_other_counts_raise(self, folder: Path) -> None:
        for result in results_of("plain_disagree", folder):
            assert result["before"] == 0
            assert result["after"] > 1e-3
            assert "inconsistent" in result["counts"]

    def test_set_optimizer_state_dict_drops_the_state_of_frozen_parameters(self, folder: Path) -> None:
        for result in results_of("plain_set_optimizer_state", folder):
            assert result["set"] == result["all"] - 2
            assert result["load"] == result["all"]

    def test_an_optimizer_that_lost_a_parameter_neither_saves_nor_loads(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        whole = copy.deepcopy(optimizer.state_dict())
        del optimizer.param_groups[0]["params"][0]
        with pytest.raises(KeyError):
            optimizer.state_dict()
        filtered = torch.optim.AdamW(model[1].parameters())
        with pytest.raises(ValueError, match="doesn't match the size"):
            filtered.load_state_dict(whole)

    def test_train_wakes_a_frozen_norm(self) -> None:
        norm = nn.BatchNorm1d(3).requires_grad_(False).eval()
        before = norm.running_mean.clone()  # type: ignore[union-attr]
        nn.Sequential(norm).train()
        norm(torch.ones(4, 3))
        assert not torch.equal(before, norm.running_mean)


def test_a_scaler_asserts_when_nothing_is_trained_and_works_behind_a_frozen_prefix(folder: Path) -> None:
    for result in results_of("scaler", folder):
        assert "No inf checks" in result["assertion"]
        assert result["still"]
        assert result["scale"] == 32, "the scale grew on as without freezing"
        assert result["apart"] == 0


def test_statistics_of_a_frozen_norm_become_rank_zeros_once_and_are_not_sent_again(folder: Path) -> None:
    for result in results_of("statistics", folder):
        assert result["before"] > 0, "each rank had its own"
        assert result["after"] == 0
        assert result["is_rank0s"]
        assert result["still"]
        assert len(result["sent"]) == result["all"] - 6
        assert not [n for n in result["sent"] if n.startswith(("bn.", "layer1.0.bn1."))]
        assert result["weights"] == 0


def test_the_first_wrapping_makes_unused_weights_equal_too(folder: Path) -> None:
    for result in results_of("first_weights", folder):
        assert result["before"] > 0
        assert result["unused"] == ["pool.bias", "pool.weight"]
        assert result["after"] == 0


def test_reentrant_checkpointing_is_named_on_every_rank_before_weights_move(folder: Path) -> None:
    for result in results_of("reentrant", folder):
        assert result["lost"] == 8, "plain PyTorch gives the checkpointed layers behind no gradient, and no error"
        assert "'layers.1.0'" in result["text"]
        assert "use_reentrant=False" in result["text"]
        assert not result["moved"]


@pytest.mark.parametrize("scenario", ["non_reentrant", "autocast"])
def test_gradients_are_the_mean_after_freezes_and_thaw(folder: Path, scenario: str) -> None:
    for result in results_of(scenario, folder):
        assert result["counts"] == [12, 12, 10, 10, 8, 8, 12, 12]
        assert result["error"] < 1e-5, "relative, against both batches through the bare model"
        assert result["apart"] == 0
        assert result["weights"] == 0


def test_accumulation_synchronises_the_active_bytes_once_a_step(folder: Path) -> None:
    for result in results_of("accumulation", folder):
        assert result["rows"] == [[True, 0, True, 1]] * 6, "local before, equal after, exactly the active bytes, once"
        assert result["weights"] == 0


def test_below_the_lowest_active_adapter_nothing_is_stored_for_a_backward_pass(folder: Path) -> None:
    for result in results_of("adapters", folder):
        assert result["lowest"] == [3, 4, 5, 3], "the first base layer whose output needs a gradient"
        assert result["stored"] == result["by_hand"]
        assert result["stored"][2] < result["stored"][1] < result["stored"][0]
        assert result["touched"] == [0, 0, 0, 0], "what the user froze has no gradient"
        assert result["weights"] == 0
