"""Freeze commands in every job store: the twin, Redis, and the async forms of both."""

from __future__ import annotations

from functools import partial

import pytest

from tests.contract.test_job_store import claimed, record, types
from workers.jobs import state
from workers.jobs.errors import IdempotencyConflict, IllegalTransition, JobNotFound, StaleFence
from workers.jobs.ports import JobStore


def test_commands_are_numbered_and_listed_in_order(store: JobStore) -> None:
    job = store.create(record())[0]
    first, new = store.add_command(job.id, "freeze", ["conv1", "block.0"])
    second, _ = store.add_command(job.id, "thaw", None)
    assert (first.seq, first.state, first.units, new) == (1, "pending", ("conv1", "block.0"), True)
    assert (second.seq, second.action, second.units) == (2, "thaw", None)
    assert store.commands(job.id) == [first, second]
    assert store.commands(job.id, after=1) == [second]
    assert store.commands(job.id, limit=1) == [first]
    assert types(store, job.id) == ["job.created"], "it is told when it took effect"


def test_an_unknown_job_has_none(store: JobStore) -> None:
    assert store.commands("job_nothing") == []
    with pytest.raises(JobNotFound):
        store.add_command("job_nothing", "thaw", None)


def test_settling_shows_and_tells_once(store: JobStore) -> None:
    job = claimed(store)
    store.add_command(job.id, "freeze", ["conv1"])
    store.add_command(job.id, "pin", ["nope"])
    assert store.settle_command(job.id, 1, 1, step=40)
    assert store.settle_command(job.id, 1, 2, step=41, error="no unit 'nope'")
    assert not store.settle_command(job.id, 1, 1, step=40), "the same outcome again, after a resume, is no news"
    applied, refused = store.commands(job.id)
    assert (applied.state, applied.applied_at_step, applied.error) == ("applied", 40, None)
    assert (refused.state, refused.applied_at_step, refused.error) == ("refused", 41, "no unit 'nope'")
    assert applied.settled_at is not None
    assert applied.settled_at >= applied.at
    told = [event for event in store.events(job.id) if event.type.startswith("command.")]
    assert [event.type for event in told] == ["command.applied", "command.refused"]
    assert told[0].data == {"command_id": "cmd_000001", "action": "freeze", "units": ["conv1"], "step": 40}
    assert told[1].data["error"] == "no unit 'nope'"


def test_another_outcome_after_a_restart_replaces_the_first(store: JobStore) -> None:
    job = claimed(store)
    store.add_command(job.id, "freeze", ["conv1"])
    store.settle_command(job.id, 1, 1, step=40)
    assert store.settle_command(job.id, 1, 1, step=7)
    assert store.commands(job.id)[0].applied_at_step == 7


def test_only_the_current_attempt_settles(store: JobStore) -> None:
    job = claimed(store)
    store.add_command(job.id, "thaw", None)
    with pytest.raises(StaleFence):
        store.settle_command(job.id, 2, 1, step=1)
    assert store.commands(job.id)[0].state == "pending"
    for seq in (0, 2):
        with pytest.raises(ValueError, match="no command"):
            store.settle_command(job.id, 1, seq, step=1)


def test_a_key_makes_one_command(store: JobStore) -> None:
    job, other = store.create(record())[0], store.create(record(1001.0))[0]
    first, new = store.add_command(job.id, "thaw", None, idempotency=("k", "hash"))
    again, newer = store.add_command(job.id, "thaw", None, idempotency=("k", "hash"))
    assert (new, newer, again) == (True, False, first)
    assert len(store.commands(job.id)) == 1
    with pytest.raises(IdempotencyConflict):
        store.add_command(job.id, "freeze", ["a"], idempotency=("k", "else"))
    assert store.add_command(other.id, "freeze", ["a"], idempotency=("k", "else"))[1], "keys of other jobs are apart"


def test_an_ended_job_takes_none_but_replays(store: JobStore) -> None:
    job = claimed(store)
    store.add_command(job.id, "thaw", None, idempotency=("k", "hash"))
    store.update(job.id, partial(state.finish, fence=1, status="succeeded"))
    with pytest.raises(IllegalTransition, match=r"cannot freeze job .*: it is succeeded"):
        store.add_command(job.id, "freeze", ["a"])
    assert not store.add_command(job.id, "thaw", None, idempotency=("k", "hash"))[1]
    assert len(store.commands(job.id)) == 1
