"""Reads what an attempt left behind, its files and the kernel's count of kills, for :mod:`workers.judgement`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from workers.jobs.layout import AttemptFiles, Result
from workers.judgement import Evidence, Order

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 16_384


def gather(files: AttemptFiles, processes: int, *, exit_code: int, order: Order | None, oom_kills: int) -> Evidence:
    """Everything that the judgement wants to know; files that are missing or broken count as absent."""
    return Evidence(
        result=read_result(files.result),
        exit_code=exit_code,
        logs={rank: read_tail(files.log(rank)) for rank in range(processes)},
        torchrun=read_tail(files.logs / "torchrun.log") or read_tail(files.logs / "guardian.log"),
        order=order,
        oom_kills=oom_kills,
    )


def read_result(path: Path) -> Result | None:
    """``result.json``; ``None`` when there is none, or none that can be believed."""
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return None


def read_tail(path: os.PathLike[str]) -> str:
    """The last 16 KiB of a file as text; empty when there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def oom_kills(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """Processes that the kernel has killed for memory in our cgroup (v2); 0 where it does not say."""
    try:
        with open(membership) as stream:
            own = next((line.strip().removeprefix("0::/") for line in stream if line.startswith("0::/")), "")
        with open(os.path.join(root, own, "memory.events")) as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
