"""Child processes that do not outlive their parent (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """A ``preexec_fn`` that has the kernel send the child a signal when its parent is gone, even by SIGKILL.

    The kernel means the parent *thread*: start children from a thread that lives as long as they shall.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return prepare


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
            preexec_fn=die_with_parent(death_signal),
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
