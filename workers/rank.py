"""First code of every rank: ``python -m workers.rank MODULE ATTEMPT_DIR``.

Dies with torchrun (whose own KILL would otherwise leave the ranks alive), is the kernel's first choice when memory
runs out, and has its output in ``logs/rank<N>.log`` before the heavy imports, so that even a failing import is on file.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from pathlib import Path

from workers import proctree
from workers.jobs.layout import AttemptFiles

GUARDIAN_VARIABLE = "SMARTFRZ_GUARDIAN"
"""Environment variable with the guardian's pid: torchrun's parent, while all three live."""


def main(argv: list[str]) -> None:
    module, root = argv
    proctree.die_with_parent()
    guardian = os.environ.get(GUARDIAN_VARIABLE)
    if guardian is not None and proctree.parent_of(os.getppid()) != int(guardian):
        sys.exit("torchrun or the guardian ended before this rank could hang on them")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    log = AttemptFiles(Path(root)).log(int(os.environ["RANK"]))
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    sys.argv = [module, root]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
