"""How much memory and disk the forward cache may take on each rank: what was asked for, within what there is."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from freezer.config import FreezeConfig
from workers.settings import Settings

MIB = 1024 * 1024
RAM_SHARE, DISK_SHARE = 0.25, 0.5
"""Of what is free now, for all ranks of a job together: other jobs of this host need room too."""

_UNLIMITED = 1 << 60
_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_log = logging.getLogger(__name__)


def bounded(config: FreezeConfig, settings: Settings, *, ranks: int, ram_free: int, disk_free: int) -> FreezeConfig:
    """``config`` with the cache's bounds within the operator's and within a share of what is free. Pure.

    What is cached changes no number, so a bound may depend on the machine.

    Args:
        ram_free: bytes of memory free on this host, for all ranks together.
        disk_free: the same of disk.
    """
    ram = min(config.cache_ram_mib, settings.max_cache_ram_mib, int(ram_free * RAM_SHARE / ranks) // MIB)
    disk = min(config.cache_disk_mib, settings.max_cache_disk_mib, int(disk_free * DISK_SHARE / ranks) // MIB)
    if (ram, disk) != (config.cache_ram_mib, config.cache_disk_mib):
        _log.info("the forward cache may take %d MiB of memory and %d MiB of disk on each rank", ram, disk)
    return replace(config, cache_ram_mib=ram, cache_disk_mib=disk)


def free_ram(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process could still take: of the machine, and of its container's limit."""
    free = [_available(proc)]
    for limit, used in _CGROUPS:
        most, now = _number(cgroup / limit), _number(cgroup / used)
        if most is not None and now is not None and most < _UNLIMITED:
            free.append(max(0, most - now))
    return min(free)


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of ``folder``, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _available(proc: Path) -> int:
    try:
        for line in proc.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
