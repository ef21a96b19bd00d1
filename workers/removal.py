"""Remove what nobody needs any more of a job's files. Blocking; called in a thread."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from workers.jobs.layout import JobFiles, drop_checkpoints

_log = logging.getLogger(__name__)


def remove_files(files: JobFiles) -> bool:
    """Remove everything that a job left; whether nothing is left. Safe to repeat.

    Nothing is touched while ranks of a lost attempt still write there: their guardian holds the job's flock.
    """
    try:
        with _sole(files) as ours:
            if ours:
                shutil.rmtree(files.root)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("files of the deleted job %s stay for now: %s", files.job_id, error)
    return not files.root.exists()


def remove_checkpoints(files: JobFiles) -> None:
    """Remove the checkpoints of a job that has succeeded, as far as that can be done now. Safe to repeat.

    Nothing is touched while ranks of a lost attempt still run, as with :func:`remove_files`.
    """
    try:
        with _sole(files) as ours:
            if ours:
                drop_checkpoints(files)
                _log.info("job %s has succeeded: its checkpoints are removed", files.job_id)
    except OSError as error:
        _log.warning("checkpoints of job %s stay for now: %s", files.job_id, error)


@contextmanager
def _sole(files: JobFiles) -> Iterator[bool]:
    """Hold the job's flock meanwhile; ``False`` when somebody else has it."""
    try:
        fd = os.open(files.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # no attempt ever began
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("files of job %s stay for now: ranks of it still run", files.job_id)
            yield False
        else:
            yield True
    finally:
        os.close(fd)
