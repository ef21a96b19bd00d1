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
    """Start a child in its own session, so that Ctrl-C reaches only its parent. Its output is appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
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
    """The end of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
