"""What is read off a finished attempt: bounded, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

from workers.evidence import gather, oom_kills, read_tail
from workers.jobs.layout import AttemptFiles


def test_a_broken_result_counts_as_none_and_the_guardian_speaks_for_torchrun(tmp_path: Path) -> None:
    files = AttemptFiles(tmp_path)
    files.logs.mkdir()
    files.result.write_text('{"outcome": "succ')
    (files.logs / "guardian.log").write_text("no such interpreter")
    evidence = gather(files, 1, exit_code=1, order=None, oom_kills=0)
    assert (evidence.result, evidence.torchrun, evidence.logs) == (None, "no such interpreter", {0: ""})


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 100_000 + "end")
    assert len(read_tail(path)) == 16_384
    assert read_tail(path).endswith("end")
    assert read_tail(tmp_path / "none") == ""


def test_the_kernels_count_of_oom_kills_is_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert oom_kills(str(tmp_path), str(membership)) == 2
    assert oom_kills(str(tmp_path), str(tmp_path / "none")) == 0
