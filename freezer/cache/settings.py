"""Bounds and mode of one rank's forward cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from freezer.config import CacheDtype, CacheMode, FreezeConfig
from freezer.errors import CacheError


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """What the forward cache of this rank may do.

    Raises:
        CacheError: a negative bound, or a disk tier without a directory.
    """

    mode: CacheMode = "auto"
    """``off``, or ``auto``: wherever it is exact and a short trial pays."""
    ram_bytes: int = 2048 << 20
    """Bytes of cached rows in host memory, at most."""
    disk_bytes: int = 0
    """Bytes of cached rows on disk, at most."""
    directory: Path | None = None
    """Where the disk tier's file lies (it is unlinked at once). ``None``: no disk tier."""
    dtype: CacheDtype = "exact"
    """``bf16`` rounds the values at the cut, cached or not; it changes the numbers of the run."""

    def __post_init__(self) -> None:
        if self.ram_bytes < 0 or self.disk_bytes < 0:
            raise CacheError("the forward cache's bounds are bytes, and must not be negative")
        if self.disk_bytes and self.directory is None:
            raise CacheError("the forward cache's disk tier needs a directory: pass one, or set cache_disk_mib to 0")

    @classmethod
    def of(cls, config: FreezeConfig, directory: Path | None) -> CacheSettings:
        """The settings that a run's configuration asks for."""
        return cls(
            mode=config.cache,
            ram_bytes=config.cache_ram_mib << 20,
            disk_bytes=config.cache_disk_mib << 20,
            directory=directory,
            dtype=config.cache_dtype,
        )
