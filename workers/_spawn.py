"""Child processes that do not outlive their parent (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from workers import proctree

TAIL_BYTES = 64 * 1024
"""So much of the end of a log is looked at for its last lines."""

LONG_LOG_BYTES = 64 * 2**20
"""A log that is longer when its process starts is put aside."""


def _with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """A ``preexec_fn`` for :func:`workers.proctree.die_with_parent`; ``None`` where the kernel has no such signal."""
    return partial(proctree.die_with_parent, os.getpid(), death_signal) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    stdin: int = subprocess.DEVNULL,
    keep_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, so that Ctrl-C reaches only its parent. Its output is appended to ``log``; one
    longer than ``LONG_LOG_BYTES`` becomes ``<log>.old`` first, in place of the one before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LONG_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.old"))
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            preexec_fn=_with_parent(death_signal),
            start_new_session=True,
            pass_fds=tuple(keep_fds),
        )


def terminate(process: subprocess.Popen[bytes], timeout: float, *, asked: bool = False) -> bool:
    """TERM (unless it was ``asked`` already), then KILL after ``timeout`` seconds. Returns whether TERM was enough."""
    if not asked and process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for an error message: so many lines, ``TAIL_BYTES`` at most."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            data = stream.read(TAIL_BYTES)
    except OSError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-count:])
