"""The first code of a rank, run as torchrun runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from workers.jobs.layout import AttemptFiles
from workers.rank import GUARDIAN_VARIABLE


def run(attempt: Path, guardian: int) -> int:
    environ = dict(os.environ) | {"RANK": "1", GUARDIAN_VARIABLE: str(guardian)}
    command = [sys.executable, "-m", "workers.rank", "no_such_module", str(attempt)]
    return subprocess.run(command, env=environ, check=False, capture_output=True, timeout=60).returncode


def test_even_a_module_that_cannot_be_loaded_is_on_file(tmp_path: Path) -> None:
    assert run(tmp_path, os.getppid()) == 1
    assert "No module named no_such_module" in AttemptFiles(tmp_path).log(1).read_text()


def test_a_rank_whose_launcher_is_not_its_guardians_does_not_start(tmp_path: Path) -> None:
    assert run(tmp_path, os.getpid()) == 1
    assert not AttemptFiles(tmp_path).log(1).exists()
