from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ballast import fill
from tests.support.small_disk import small_disk
from workers.jobs.layout import Result
from workers.training.main import claim_result


def failure(rank: int) -> Result:
    return Result(outcome="failed", reason="code_error", message="x", rank=rank)


def test_the_first_failing_rank_names_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert claim_result(path, failure(1))
    assert not claim_result(path, failure(0))
    assert Result.model_validate_json(path.read_text()).rank == 1
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_file_system_without_links_still_gets_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "result.json"
    assert claim_result(path, failure(1))
    assert not claim_result(path, failure(0))
    assert Result.model_validate_json(path.read_text()).rank == 1


def test_all_output_goes_to_the_log_even_that_of_other_programs(tmp_path: Path) -> None:
    script = (
        "import os, sys, subprocess; from pathlib import Path; from workers.training.main import redirect_output;"
        "redirect_output(Path(sys.argv[1])); print('one'); os.write(2, b'two\\n'); subprocess.run(['echo', 'three'])"
    )
    log = tmp_path / "logs" / "rank0.log"
    done = subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, check=True, timeout=60)
    assert done.stdout == done.stderr == b""
    assert log.read_text().split() == ["one", "two", "three"]


def test_a_log_on_a_full_disk_fails_nobody_who_prints(tmp_path: Path) -> None:
    script = (
        "import sys, traceback; from pathlib import Path; from workers.training.main import redirect_output;"
        "redirect_output(Path(sys.argv[1])); [print('x' * 100) for _ in range(1000)];"
        "traceback.print_exception(ValueError('y')); sys.stdout.flush(); sys.stderr.flush()"
    )
    with small_disk(tmp_path / "disk") as disk:
        fill(disk / "ballast")
        log = disk / "rank0.log"
        done = subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr, log.stat().st_size) == (0, b"", 0)
