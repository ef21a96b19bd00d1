"""Paths of a job's files, and writes that are whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.jobs.layout import Control, JobFiles, Result, write_atomic


def test_paths(tmp_path: Path) -> None:
    attempt = JobFiles(tmp_path, "job_1").attempt(3)
    root = tmp_path / "jobs" / "job_1" / "attempt-0003"
    assert attempt.root == root
    assert attempt.log(1) == root / "logs" / "rank1.log"
    assert {p.parent for p in (attempt.spec, attempt.control, attempt.result, attempt.metrics)} == {root}
    assert (attempt.checkpoints, attempt.artifacts) == (root / "checkpoints", root / "artifacts")


def test_attempts_come_oldest_first(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "job_1")
    assert files.attempts() == []
    for fence in (10, 2, 1):
        files.attempt(fence).root.mkdir(parents=True)
    assert files.attempts() == [files.attempt(1), files.attempt(2), files.attempt(10)]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    texts = {letter * 100_000 for letter in "ab"}
    write_atomic(path, "a" * 100_000)
    done = threading.Event()

    def write() -> None:
        for n in range(30):
            write_atomic(path, "ab"[n % 2] * 100_000)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    writer.join()
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_documents_survive_json_and_refuse_unknown_orders() -> None:
    result = Result(outcome="failed", reason="code_error", message="m", rank=1, step=3, summary={"a": 1})
    assert Result.model_validate_json(result.model_dump_json()) == result
    with pytest.raises(ValidationError):
        Control.model_validate({"action": "explode"})
