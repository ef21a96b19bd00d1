"""Entry point of one rank: ``python -m workers.training.main <attempt dir>``, alone or under ``torchrun``.

Exit codes: 0 succeeded or stopped after an order, 1 failed (``result.json`` says why), 3 the job belongs to another
attempt, 4 another rank is gone (which says why itself), 5 the disk failed, so that there may be no ``result.json``.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from workers.jobs.layout import AttemptFiles, AttemptSpec, Result, write_atomic

SUCCEEDED, FAILED, OWNERSHIP_LOST, PEER_LOST, STORAGE_FAILED = 0, 1, 3, 4, 5
_log = logging.getLogger("workers.training")


class Output(io.FileIO):
    """A log file whose disk may be full: what it does not take is lost, and nobody who prints fails over it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def redirect_output(path: Path) -> None:
    """Send file descriptors 1 and 2, and so everything that anybody prints in this process, to the rank's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(Output(number, "w", closefd=False)),
            encoding="utf-8",
            errors="replace",
            line_buffering=True,
        )
        for number in (1, 2)
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )


def main(folder: Path) -> int:
    """Run this rank of the attempt in ``folder``; returns the exit code."""
    began = time.perf_counter()
    files = AttemptFiles(folder.resolve())
    rank = int(os.environ.get("RANK", "0"))
    redirect_output(files.log(rank))
    # After the redirection, so that a failing import is in the log too.
    from workers.settings import Settings
    from workers.training import outcome
    from workers.training.errors import CodeError
    from workers.training.job import train_job
    from workers.training.loop import OwnershipLost

    settings = Settings()
    try:
        attempt = AttemptSpec.model_validate_json(files.spec.read_text(encoding="utf-8"))
        result = train_job(attempt, files, settings, began=began)
    except OwnershipLost:
        _log.error("stopping: this attempt does not own the job any more")
        return OWNERSHIP_LOST
    except BaseException as error:
        if outcome.is_peer_lost(error, world=int(os.environ.get("WORLD_SIZE", "1"))):
            _log.error("stopping: another rank is gone (%s)", str(error).splitlines()[0] if str(error) else error)
            return PEER_LOST
        verdict = outcome.judge(error, code_dir=settings.code_dir)
        full = verdict.reason == "storage_full"
        if not full:  # a traceback that stands alone, for want of a result, would count as the code's
            # Of user code that raised, the user's own frames: the last lines of the log are shown in the job.
            traceback.print_exception(error.__cause__ if isinstance(error, CodeError) and error.__cause__ else error)
        _log.error("failed: %s: %s", verdict.reason, verdict.message)
        claim_result(files.result, Result(outcome="failed", reason=verdict.reason, message=verdict.message, rank=rank))
        return STORAGE_FAILED if full else FAILED
    try:
        if rank == 0:
            write_atomic(files.result, result.model_dump_json(indent=1))
    except OSError as error:
        _log.error("the result cannot be written (%s): %s", error, result.model_dump_json())
        return STORAGE_FAILED
    return SUCCEEDED


def claim_result(path: Path, result: Result) -> bool:
    """Write a failure unless there is a result already: the first rank that fails names the cause."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_atomic(beside, result.model_dump_json(indent=1))
        os.link(beside, path)  # fails when it exists: the one test-and-set that a file system has
        return True
    except FileExistsError:
        return False
    except OSError as error:
        # A full disk, or a file system without hard links: there a late rank may win, which is better than no result.
        _log.warning("the result cannot be linked: %s", error)
    finally:
        beside.unlink(missing_ok=True)
    try:
        if not path.exists():
            write_atomic(path, result.model_dump_json(indent=1))
            return True
    except OSError as error:
        _log.error("the result cannot be written (%s): %s", error, json.dumps(result.model_dump()))
    return False


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a failure the threads of a process group may wait for peers that are gone.
    os._exit(code)
