from __future__ import annotations

from pathlib import Path

import pytest

from freezer.config import FreezeConfig
from workers.settings import Settings
from workers.training.room import MIB, bounded, free_disk, free_ram

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("ranks", "ram_free", "disk_free", "ram", "disk"),
    [
        (1, 64 * GIB, 64 * GIB, 1000, 500),
        (1, 2 * GIB, 64 * GIB, 512, 500),
        (4, 2 * GIB, 2 * GIB, 128, 256),
        (2, 0, 0, 0, 0),
    ],
)
def test_ranks_share_a_part_of_what_is_free(ranks: int, ram_free: int, disk_free: int, ram: int, disk: int) -> None:
    config = FreezeConfig(cache_ram_mib=1000, cache_disk_mib=500, seed=3)
    cut = bounded(config, Settings(), ranks=ranks, ram_free=ram_free, disk_free=disk_free)
    assert (cut.cache_ram_mib, cut.cache_disk_mib, cut.seed) == (ram, disk, 3)


def test_the_operator_bounds_a_default(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, max_cache_ram_mib=7, max_cache_disk_mib=0)
    cut = bounded(FreezeConfig(cache_disk_mib=9), settings, ranks=1, ram_free=64 * GIB, disk_free=64 * GIB)
    assert (cut.cache_ram_mib, cut.cache_disk_mib) == (7, 0)


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    assert free_ram(proc, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_ram(proc, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_ram(proc, tmp_path) == 4000


def test_here_and_a_folder_to_come(tmp_path: Path) -> None:
    assert free_ram() > 0
    assert free_disk(tmp_path / "not" / "yet") > 0
