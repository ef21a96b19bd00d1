"""Rows by sample and draw on shelves, one for each cut, weights and input form; memory first, then disk; bounded."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freezer.cache.disk import DiskTier, slot_bytes
from freezer.cache.rows import Row

Key = tuple[int, int]
"""Sample id and draw."""


@dataclass(slots=True)
class Entry:
    """One sample's row: in memory, or in a slot on disk. ``print`` is the fingerprint of its inputs."""

    print: int
    row: Row | None
    slot: int = -1


@dataclass(slots=True)
class Shelf:
    """Rows of one form. ``like``: shape and dtype of each part."""

    like: tuple[tuple[torch.Size, torch.dtype], ...]
    entries: dict[Key, Entry] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        return sum(shape.numel() * dtype.itemsize for shape, dtype in self.like)


class Store:
    """All rows of one rank.

    Admission stops when both tiers are full. Training reads every sample once an epoch in a new order; evicting the
    least recently used row would throw out just what the epoch still needs, so that a cache of half the samples would
    hit far less than half of the time. Only rows of an earlier cut make room, as they have to be advanced anyway.

    The training thread alone writes; :attr:`lock` keeps the prefetching thread out meanwhile.
    """

    def __init__(self, ram_bytes: int, disk_bytes: int, directory: Path | None) -> None:
        self.lock = threading.Lock()
        self.shelves: dict[Hashable, Shelf] = {}
        self.ram_used = 0
        self.evictions = 0
        self.problem: str | None = None
        self._ram_bytes = ram_bytes
        self._disk_bytes = disk_bytes if directory is not None else 0
        self._directory = directory
        self._disk: DiskTier | None = None

    def shelf(self, name: Hashable, like: Sequence[tuple[torch.Size, torch.dtype]]) -> Shelf:
        """The shelf of that name, new where there is none."""
        with self.lock:
            return self.shelves.setdefault(name, Shelf(tuple(like)))

    def holds_any(self, shelf: Shelf) -> bool:
        """Whether a single row of this form could be kept at all."""
        return max(self._ram_bytes, self._disk_bytes) >= shelf.row_bytes

    def put(self, shelf: Shelf, key: Key, row: Row, print_: int) -> bool:
        """Keep a row, which must not change any more; ``False`` where there is no place."""
        with self.lock:
            if key in shelf.entries:
                self._forget(shelf, key)
            size = shelf.row_bytes
            if self.ram_used + size > self._ram_bytes:
                self._make_room(shelf, size)
            if self.ram_used + size <= self._ram_bytes:
                self.ram_used += size
                shelf.entries[key] = Entry(print_, row)
                return True
            slot = self._spill(shelf, row)
            if slot is None:
                return False
            shelf.entries[key] = Entry(print_, None, slot)
            return True

    def remove(self, shelf: Shelf, key: Key) -> None:
        with self.lock:
            if key in shelf.entries:
                self._forget(shelf, key)

    def keep_only(self, names: Sequence[Hashable]) -> int:
        """Drop all other shelves; how many rows went. The order tells which makes room first."""
        with self.lock:
            dropped = 0
            for name in [n for n in self.shelves if n not in names]:
                shelf = self.shelves.pop(name)
                for key in list(shelf.entries):
                    self._forget(shelf, key)
                    dropped += 1
            self.shelves = {name: self.shelves[name] for name in names if name in self.shelves}
            return dropped

    def row(self, shelf: Shelf, entry: Entry) -> Row:
        """Its parts; of one on disk views, to be copied before the store is written again."""
        if entry.row is not None:
            return entry.row
        assert self._disk is not None
        return self._disk.read(entry.slot, shelf.like)

    @property
    def disk_used(self) -> int:
        return self._disk.used * self._disk.slot if self._disk is not None else 0

    def count(self) -> tuple[int, int]:
        """Rows in memory and on disk."""
        disk = self._disk.used if self._disk is not None else 0
        return sum(len(s.entries) for s in self.shelves.values()) - disk, disk

    def report(self) -> dict[str, Any]:
        """What is there, and what stood in the way; JSON values."""
        ram, disk = self.count()
        return {
            "rows_ram": ram,
            "rows_disk": disk,
            "bytes_ram": self.ram_used,
            "bytes_disk": self.disk_used,
            "disk_problem": self.problem,
            "evictions": self.evictions,
        }

    def close(self) -> None:
        self.keep_only(())
        self._disk = None

    def _forget(self, shelf: Shelf, key: Key) -> None:
        entry = shelf.entries.pop(key)
        if entry.row is not None:
            self.ram_used -= shelf.row_bytes
        elif self._disk is not None:
            self._disk.free(entry.slot)

    def _make_room(self, wanted: Shelf, size: int) -> None:
        for shelf in self.older(wanted):
            for key in [k for k, e in shelf.entries.items() if e.row is not None]:
                if self.ram_used + size <= self._ram_bytes:
                    return
                self._forget(shelf, key)
                self.evictions += 1

    stale: frozenset[int] = frozenset()
    """Identities of shelves of an earlier cut."""

    def older(self, wanted: Shelf) -> list[Shelf]:
        return [s for s in self.shelves.values() if id(s) in self.stale and s is not wanted]

    def _spill(self, shelf: Shelf, row: Row) -> int | None:
        size = slot_bytes(shelf.like)
        if self._directory is None or self._disk_bytes < size or self.problem is not None:
            return None
        if self._disk is not None and not size <= self._disk.slot <= 2 * size:
            if id(shelf) in self.stale or self._disk.used > self._stale_on_disk():
                if size > self._disk.slot:
                    return None
            else:
                self._clear_disk()
        if self._disk is None:
            try:
                self._disk = DiskTier(self._directory, self._disk_bytes, size)
            except OSError as error:
                self.problem = f"the disk tier cannot be used: {error}"
                return None
        if self._disk.full:
            self._drop_stale_slot()
        return None if self._disk.full else self._disk.write(row)

    def _stale_on_disk(self) -> int:
        return sum(e.slot >= 0 for s in self.shelves.values() if id(s) in self.stale for e in s.entries.values())

    def _clear_disk(self) -> None:
        for shelf in self.shelves.values():
            for key in [k for k, e in shelf.entries.items() if e.slot >= 0]:
                self._forget(shelf, key)
                self.evictions += 1
        self._disk = None

    def _drop_stale_slot(self) -> None:
        for shelf in self.shelves.values():
            if id(shelf) in self.stale:
                key = next((k for k, e in shelf.entries.items() if e.slot >= 0), None)
                if key is not None:
                    self._forget(shelf, key)
                    self.evictions += 1
                    return


def stack(rows: Sequence[Row], device: torch.device) -> list[Tensor]:
    """Parts of many rows, each (n, k, ...), on the device where the model wants them."""
    parts = []
    for group in zip(*rows, strict=True):
        if device.type == "cuda":
            shape = (len(group), *group[0].shape)
            pinned = torch.empty(shape, dtype=group[0].dtype, pin_memory=True)
            parts.append(torch.stack(group, out=pinned).to(device, non_blocking=True))
        else:
            parts.append(torch.stack(group).to(device))
    return parts
