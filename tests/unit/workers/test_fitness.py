"""Whether a worker's disk can take a job, tried on a real one."""

from __future__ import annotations

from pathlib import Path

from workers.fitness import trouble


def test_a_disk_that_takes_writes_and_has_room_is_no_trouble_and_keeps_nothing(tmp_path: Path) -> None:
    assert trouble(tmp_path / "home", 1) is None
    assert list((tmp_path / "home" / "jobs").iterdir()) == []


def test_a_home_that_takes_no_writes_is_named_with_the_systems_words(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file where the folder of all jobs should be")
    assert trouble(tmp_path, 0) == f"cannot write to {tmp_path / 'jobs'}: File exists"


def test_too_little_room_is_trouble_and_the_setting_is_named(tmp_path: Path) -> None:
    text = trouble(tmp_path, 10**12) or ""
    assert f"are free on the disk of {tmp_path}: free some (SMARTFRZ_MIN_FREE_MIB asks for {10**12})" in text
