"""Rank processes whose disk is full: in part or altogether, for a while or until the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StoreUrl
from tests.e2e.test_train_attempt import Service, attempt, job, report, result, run, straight, weights
from tests.support.ballast import fill
from tests.support.equality import same
from tests.support.rank_processes import PATIENCE
from tests.support.small_disk import small_disk
from workers.jobs.layout import AttemptFiles, Control, write_atomic

__all__ = ["straight"]
pytestmark = pytest.mark.timeout(3 * PATIENCE)
FULL = "free space under SMARTFRZ_HOME"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk without room, for a link to it."""
    with small_disk(tmp_path / "full") as disk:
        fill(disk / "ballast")
        yield disk


def test_no_room_for_checkpoints_ends_no_run_and_is_told(
    tmp_path: Path, full: Path, store_url: StoreUrl, straight: Callable[[int], AttemptFiles]
) -> None:
    service = Service(store_url, job(2))
    service.claim()
    files = attempt(tmp_path, job(2))
    files.checkpoints.symlink_to(full)
    assert run(files, 2, **service.env) == [0, 0]
    assert same(weights(straight(2)), weights(files))
    failed = service.events("checkpoint.failed")
    assert [event["step"] for event in failed] == [5, 10, 15, 20]
    assert failed[0]["message"].startswith("no space left at ")
    assert failed[0]["message"].endswith(FULL)
    assert "no checkpoint of step 5: no space left" in files.log(0).read_text()
    assert [path.name for path in full.iterdir()] == ["ballast"]


def test_a_drain_without_room_is_a_drain_and_says_what_is_missing(tmp_path: Path, full: Path) -> None:
    files = attempt(tmp_path, job())
    write_atomic(files.control, Control(action="drain").model_dump_json())
    files.checkpoints.symlink_to(full)
    assert run(files) == [0]
    left = result(files)
    assert (left.outcome, left.action, left.step, left.reason) == ("stopped", "drain", 1, "storage_full")
    assert (left.message or "").startswith("its checkpoint of step 1 could not be written, so it will go on from")
    assert FULL in (left.message or "")


def test_no_room_for_the_trained_weights_is_a_storage_failure(tmp_path: Path, full: Path) -> None:
    files = attempt(tmp_path, job())
    files.artifacts.symlink_to(full)
    assert run(files) == [5]
    ended = result(files)
    assert (ended.outcome, ended.reason) == ("failed", "storage_full")
    assert FULL in (ended.message or "")
    assert "Traceback" not in files.log(0).read_text()


def test_a_disk_that_fills_up_under_a_run_leaves_what_the_next_attempt_needs(
    tmp_path: Path, straight: Callable[[int], AttemptFiles]
) -> None:
    with small_disk(tmp_path / "disk", mib=4) as home:
        ballast = home / "ballast"
        spec = job(data={"options": {"ballast": str(ballast)}})
        first, second, third = (attempt(home, spec, number) for number in (1, 2, 3))
        write_atomic(first.control, Control(action="drain").model_dump_json())
        assert run(first) == [0]
        ballast.touch()
        assert run(second) == [5], "neither metrics nor log, checkpoints, weights or result could be written"
        assert not second.result.exists()
        assert "Traceback" not in second.log(0).read_text()
        assert [path.name for path in first.checkpoints.iterdir()] == ["step-00000001"]
        ballast.unlink()
        assert run(third) == [0]
        assert "going on after step 1 " in third.log(0).read_text()
        assert same(weights(straight(1)), weights(third))
        assert report(third)["steps"] == 24
