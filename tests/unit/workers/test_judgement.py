"""The verdict over an attempt, case by case."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any, get_args

import pytest

from workers.guardian import LOCKED
from workers.jobs.layout import Result
from workers.jobs.record import Reason
from workers.judgement import Evidence, Outcome, failures, false_start, judge, not_started, tail
from workers.training.main import PEER_LOST, STORAGE_FAILED

TORCHRUN = """\
workers.rank FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_10:00:00
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_10:00:00
  host      : h
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 12)
  error_file: <N/A>
"""
TRACE = "Traceback (most recent call last):\n  File x\nValueError: broken"


def result(outcome: str, **fields: Any) -> Result:
    return Result.model_validate({"outcome": outcome, **fields})


SUCCESS = result("succeeded", step=7, summary={"accuracy": 0.9})
FAILED = result("failed", reason="code_error", message="ValueError: broken", rank=0)


def test_success_is_believed_even_after_an_order_and_whatever_torchrun_says() -> None:
    outcome = judge(Evidence(result=SUCCESS, exit_code=1, order="cancel"))
    assert outcome == Outcome("finish", None, "succeeded", None, {"accuracy": 0.9}, 7)


@pytest.mark.parametrize(
    ("action", "kind", "status"),
    [("cancel", "finish", "cancelled"), ("pause", "finish", "paused"), ("drain", "hand_back", "failed")],
)
def test_a_stop_in_time_and_a_forced_one_end_alike(action: Any, kind: str, status: str) -> None:
    civil = judge(Evidence(result=result("stopped", action=action), order=action))
    forced = judge(Evidence(exit_code=137, order=action, logs={0: TRACE}))
    assert (civil.kind, civil.status) == (forced.kind, forced.status) == (kind, status)
    if action != "cancel":
        assert "did not stop in time" in (forced.message or "")
        assert "did not stop in time" not in (civil.message or "")


def test_a_cancel_is_a_cancel_even_if_the_ranks_fail_on_the_way() -> None:
    assert judge(Evidence(result=FAILED, order="cancel")).status == "cancelled"
    assert judge(Evidence(result=result("stopped", action="pause"), order="cancel")).status == "paused"


def test_a_failure_during_a_pause_is_a_failure() -> None:
    outcome = judge(Evidence(result=FAILED, order="pause", logs={0: TRACE}))
    assert (outcome.status, outcome.reason) == ("failed", "code_error")


def test_the_maximum_duration() -> None:
    outcome = judge(Evidence(result=result("stopped", action="cancel"), order="max_duration"), max_duration_seconds=60)
    assert (outcome.status, outcome.reason) == ("failed", "max_duration_exceeded")
    assert outcome.message == "ran longer than max_duration_seconds (60)"


def test_a_code_error_carries_the_end_of_the_failing_ranks_log() -> None:
    outcome = judge(Evidence(result=FAILED, exit_code=1, logs={0: TRACE, 1: "fine"}))
    assert outcome.reason == "code_error"
    assert outcome.message == f"ValueError: broken\n{TRACE}"


def test_without_a_result_a_traceback_means_a_code_error() -> None:
    outcome = judge(Evidence(exit_code=1, logs={0: "fine", 1: TRACE}, torchrun=TORCHRUN.format(code=1)))
    assert (outcome.kind, outcome.reason) == ("finish", "code_error")
    assert outcome.message == f"rank 1 failed\n{TRACE}"
    assert judge(Evidence(exit_code=1, logs={1: TRACE})).reason == "code_error"


def test_a_killed_rank_is_the_cause_though_its_peers_fail_with_errors_of_their_own() -> None:
    outcome = judge(Evidence(result=FAILED, exit_code=1, logs={0: TRACE}, torchrun=TORCHRUN.format(code=-9)))
    assert (outcome.kind, outcome.message) == ("lose", "rank 1 was killed by signal 9")


def test_out_of_memory_is_said_only_when_the_kernel_says_so() -> None:
    killed = Evidence(exit_code=1, torchrun=TORCHRUN.format(code=-9))
    assert judge(killed).kind == "lose"
    outcome = judge(Evidence(exit_code=1, torchrun=killed.torchrun, oom_kills=1))
    assert (outcome.kind, outcome.reason) == ("finish", "host_oom")
    assert "batch_size" in (outcome.message or "")


@pytest.mark.parametrize("reason", ["gpu_oom", "host_oom", "config_invalid", "dataset_invalid"])
def test_deterministic_failures_are_final(reason: str) -> None:
    outcome = judge(Evidence(result=result("failed", reason=reason, message="why")))
    assert (outcome.kind, outcome.reason, outcome.message) == ("finish", reason, "why")


@pytest.mark.parametrize("reason", ["collective_timeout", "stalled", "worker_lost"])
def test_transient_failures_are_tried_again(reason: str) -> None:
    assert judge(Evidence(result=result("failed", reason=reason))).kind == "lose"


FULL = result("failed", reason="storage_full", message="no space")


def test_a_full_disk_loses_the_attempt_but_not_the_job_and_the_reason_is_told() -> None:
    assert judge(Evidence(result=FULL)) == Outcome("lose", "no space", reason="storage_full")
    assert judge(Evidence(result=FULL, order="pause")).kind == "lose", "which pauses a job that is to be paused"
    assert judge(Evidence(result=FULL, order="drain")) == Outcome("hand_back", "no space", reason="storage_full")


def test_a_disk_too_full_for_a_result_is_no_fault_of_the_code() -> None:
    outcome = judge(Evidence(exit_code=1, torchrun=TORCHRUN.format(code=STORAGE_FAILED), logs={1: TRACE}))
    assert (outcome.kind, outcome.reason) == ("lose", "storage_full")
    assert outcome.message == "rank 1 could not write how it ended: free space under SMARTFRZ_HOME, or see to its disk"


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [("pause", "finish", "paused by user"), ("drain", "hand_back", "the worker is shutting down")],
)
def test_a_stop_without_a_checkpoint_is_still_the_stop_that_was_asked_for(action: Any, kind: str, words: str) -> None:
    left = result("stopped", action=action, reason="storage_full", message="no checkpoint of step 7")
    outcome = judge(Evidence(result=left, order=action))
    assert (outcome.kind, outcome.reason) == (kind, "storage_full")
    assert outcome.message == f"{words}; no checkpoint of step 7"
    assert outcome.status == "paused" or action == "drain"


def test_an_end_without_any_trace_is_tried_again_and_says_what_is_known() -> None:
    assert judge(Evidence(exit_code=-9)).message == "the guardian was killed by signal 9"
    outcome = judge(Evidence(exit_code=1, torchrun="RuntimeError: no port"))
    assert outcome.kind == "lose"
    assert outcome.message == "the ranks ended without a result (exit code 1)\nRuntimeError: no port"


def test_a_held_flock_proves_that_the_job_lives_and_costs_no_attempt() -> None:
    outcome = judge(Evidence(exit_code=LOCKED))
    assert (outcome.kind, outcome.began) == ("hand_back", False)
    assert (outcome.message or "").startswith("an earlier attempt of this job still runs")


def test_the_message_is_bounded() -> None:
    assert len(tail("line\n" * 10_000)) < 120
    assert len(tail("x" * 10_000)) == 2000


def test_a_rank_that_only_lost_its_peer_is_not_the_culprit() -> None:
    both = TORCHRUN.replace("exitcode  : 1", "exitcode  : -9").format(code=PEER_LOST)
    assert judge(Evidence(exit_code=1, torchrun=both)).message == "rank 0 was killed by signal 9"
    alone = TORCHRUN.format(code=PEER_LOST)
    assert judge(Evidence(exit_code=1, torchrun=alone, logs={0: TRACE})).message == f"rank 0 failed\n{TRACE}"
    outcome = judge(Evidence(exit_code=1, torchrun=alone.replace("exitcode  : 1", f"exitcode  : {PEER_LOST}")))
    assert (outcome.kind, outcome.message) == ("lose", "rank 1 lost its peers")


def test_a_reported_failure_is_believed_when_a_peer_aborts_over_it() -> None:
    assert judge(Evidence(result=FAILED, torchrun=TORCHRUN.format(code=-6))).reason == "code_error"


def test_signals_by_which_torchrun_ended_the_others_are_not_the_cause() -> None:
    for ended in (-15, -9):
        torchrun = TORCHRUN.replace("exitcode  : 1", f"exitcode  : {ended}").format(code=1)
        outcome = judge(Evidence(exit_code=1, torchrun=torchrun, logs={1: TRACE}))
        assert (outcome.reason, outcome.message) == ("code_error", f"rank 1 failed\n{TRACE}")


def test_the_root_cause_comes_first() -> None:
    assert failures(TORCHRUN.format(code=-9)) == [(1, -9), (0, 1)]
    assert failures("nothing of the kind") == []


def test_a_killed_launcher_is_the_cause_whatever_the_logs_hold() -> None:
    noise = {0: f"{TRACE}\nhandled, going on"}
    assert judge(Evidence(exit_code=-9, logs=noise)).message == "the guardian was killed by signal 9"
    outcome = judge(Evidence(exit_code=128 + 9, logs=noise))
    assert (outcome.kind, outcome.message) == ("lose", "the launcher was killed by signal 9")


@pytest.mark.parametrize("reason", [*get_args(Reason), None])
def test_another_jobs_kill_for_memory_hides_no_failure_that_a_rank_reported(reason: Any) -> None:
    failed = result("failed", reason=reason, message="why")
    for torchrun in ("", TORCHRUN.format(code=1), TORCHRUN.format(code=-6), TORCHRUN.format(code=-9)):
        alone = judge(Evidence(result=failed, exit_code=1, logs={0: TRACE}, torchrun=torchrun))
        beside = judge(Evidence(result=failed, exit_code=1, logs={0: TRACE}, torchrun=torchrun, oom_kills=1))
        assert (beside.kind, beside.reason) == (alone.kind, alone.reason)
        assert (beside.message or "").startswith(alone.message or "")


def test_another_jobs_kill_for_memory_is_not_taken_for_ours() -> None:
    ended_by_torchrun = TORCHRUN.replace("exitcode  : 1", "exitcode  : -9").format(code=1)
    outcome = judge(Evidence(exit_code=1, logs={1: TRACE}, torchrun=ended_by_torchrun, oom_kills=1))
    assert (outcome.reason, outcome.message) == ("code_error", f"rank 1 failed\n{TRACE}")
    for code, torchrun in ((1, TORCHRUN.format(code=-11)), (LOCKED, ""), (1, ""), (128 + 15, "")):
        assert judge(Evidence(exit_code=code, torchrun=torchrun, oom_kills=1)).reason is None


@pytest.mark.parametrize("code", [-9, 128 + 9])
def test_a_launcher_that_the_kernel_killed_for_memory_is_out_of_memory(code: int) -> None:
    assert judge(Evidence(exit_code=code, oom_kills=1)).reason == "host_oom"
    assert judge(Evidence(exit_code=code)).kind == "lose"


def test_a_kill_for_memory_that_peers_failed_over_is_at_least_told() -> None:
    outcome = judge(Evidence(result=FAILED, exit_code=1, torchrun=TORCHRUN.format(code=-9), oom_kills=1))
    told = "rank 1 was killed by signal 9, and the kernel ended a process because memory ran out"
    assert (outcome.kind, outcome.message) == ("lose", told)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EAGAIN])
def test_an_attempt_that_could_not_start_is_no_fault_of_the_job(number: int) -> None:
    outcome = not_started(OSError(number, "the system's words"))
    assert (outcome.kind, outcome.began) == ("hand_back", False)
    assert outcome.message == f"the worker could not start the attempt: [Errno {number}] the system's words"


def test_a_false_start_is_an_end_before_the_first_step_that_the_worker_may_have_caused() -> None:
    lost, full = Outcome("lose", "gone"), Outcome("lose", "full", reason="storage_full")
    assert false_start(lost, 0)
    assert false_start(full, 0)
    assert not false_start(lost, 1)
    assert not false_start(replace(full, kind="finish", reason="code_error"), 0)
    assert not false_start(Outcome("hand_back", "drained"), 0)
    assert not false_start(Outcome("finish", status="succeeded"), 0)
