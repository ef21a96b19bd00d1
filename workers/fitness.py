"""Whether this worker can take a job at all: its home must take writes and have some room left."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MIB = 2**20
PROBE_BYTES = 4096


def trouble(home: Path, min_free_mib: int) -> str | None:
    """Why no job may be claimed now, as a sentence; ``None`` when nothing is wrong.

    Args:
        home: ``SMARTFRZ_HOME``. A file is written there, pushed to the disk and is gone again.
        min_free_mib: least room on its disk, in MiB.
    """
    folder = home / "jobs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())  # some file systems and quotas refuse only here
        free = shutil.disk_usage(folder).free // MIB
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror or error}"
    if free < min_free_mib:
        return f"{free} MiB are free on the disk of {home}: free some (SMARTFRZ_MIN_FREE_MIB asks for {min_free_mib})"
    return None
