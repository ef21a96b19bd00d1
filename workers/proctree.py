"""Linux process trees: who descends from whom, who dies with whom, and how a whole tree is ended.

``torchrun`` gives every rank a session of its own, so no process group holds the tree together. What does hold:
``PR_SET_CHILD_SUBREAPER`` (orphans re-parent to us, not to init) and a walk over ``/proc``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def die_with_parent(parent: int | None = None, death_signal: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent is gone, even by SIGKILL.

    The kernel means the parent *thread*: start children from a thread that lives as long as they shall.

    Args:
        parent: the pid that the parent had before the fork; when it is already gone, this process ends here.
        death_signal: what the kernel sends.
    """
    _prctl(PR_SET_PDEATHSIG, death_signal)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def become_subreaper() -> None:
    """Descendants whose parent dies become our children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, or ``None`` when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()  # the name may hold spaces and brackets
    except OSError:  # gone, or another user's and hidden from us
        return None
    return fields[0].decode(), int(fields[1])


def parent_of(pid: int) -> int | None:
    """The parent of a process, ``None`` when there is no such process."""
    found = _stat(pid)
    return None if found is None else found[1]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    found = _stat(pid)
    return found is not None and found[0] not in "ZX"


def descendants(root: int) -> list[int]:
    """Every process below ``root``, zombies left out, parents before children."""
    children: dict[int, list[int]] = {}
    living: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := _stat(int(entry))) is not None:
            children.setdefault(found[1], []).append(int(entry))
            if found[0] not in "ZX":
                living.add(int(entry))
    order, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            order.append(child)
            todo.append(child)
    return [pid for pid in order if pid in living]


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def reap_children() -> dict[int, int]:
    """Collect every ended child without waiting: pid -> exit code (negative: signal)."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def end_tree(term: bool, grace_seconds: float, on_reaped: Callable[[dict[int, int]], None] = lambda _: None) -> None:
    """End everything below this process (a subreaper) and return when nothing is left.

    Args:
        term: ask with TERM first and wait up to ``grace_seconds``; otherwise KILL at once.
        on_reaped: gets what :func:`reap_children` found, since an exit code can be read only once.
    """
    if term:
        send(descendants(os.getpid()), signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while time.monotonic() < deadline:
            on_reaped(reap_children())
            if not descendants(os.getpid()):
                break
            time.sleep(0.02)
    while True:  # a killed process's children appear here one by one, so look again until there are none
        on_reaped(reap_children())
        left = descendants(os.getpid())
        if not left:
            return
        send(left, signal.SIGKILL)
        time.sleep(0.02)
