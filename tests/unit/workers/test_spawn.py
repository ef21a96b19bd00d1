"""Logs of child processes: the end of a long one is read alone, and a long one is put aside at the next start."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest

from workers import _spawn
from workers._spawn import last_lines, spawn


def test_the_last_lines_of_a_long_log_are_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("wb") as stream:
        for _ in range(30):
            stream.write(b"x" * 2**20)
        stream.write("\n".join(["", *(f"zeile {n} ä" for n in range(20))]).encode())
    tracemalloc.start()
    try:
        told = last_lines(log, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told.splitlines() == ["zeile 17 ä", "zeile 18 ä", "zeile 19 ä"]
    assert peak < 2**20, peak


def test_the_last_lines_of_a_short_log_or_none(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log) == ""
    log.write_bytes(b"")
    assert last_lines(log) == ""
    log.write_bytes(b"one\n\xfftwo\n")
    assert last_lines(log) == "one\n\ufffdtwo"


def test_a_long_log_is_put_aside_when_its_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spawn, "LONG_LOG_BYTES", 10)
    log = tmp_path / "logs" / "a.log"
    for word in ("first", "second", "third"):
        assert spawn([sys.executable, "-S", "-c", f"print({word!r})"], log=log).wait(20) == 0
    assert (log.with_name("a.log.old").read_text(), log.read_text()) == ("first\nsecond\n", "third\n")
