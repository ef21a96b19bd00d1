"""The disk tier: one preallocated file of slots of one size, mapped into memory, gone with the process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_ALIGN = 64


class DiskTier:
    """Slots for rows of at most ``slot`` bytes.

    The file is unlinked right after it was opened, so that nothing stays behind whatever happens to the process, and
    its space is claimed at once: a full disk is an error here rather than a bus error in the middle of a step.

    Raises:
        OSError: the directory cannot hold the file.
    """

    def __init__(self, directory: Path, limit: int, row: int) -> None:
        self.slot = -(-row // _ALIGN) * _ALIGN
        self.slots = limit // self.slot
        self.used = 0
        self._free: list[int] = []
        self._fresh = 0
        self._map: Tensor | None = None
        if self.slots:
            self._map = self._open(directory, self.slots * self.slot)

    @staticmethod
    def _open(directory: Path, size: int) -> Tensor:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="forward-cache-", dir=directory)
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(handle, 0, size)
            return torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        finally:
            os.close(handle)
            os.unlink(name)

    @property
    def full(self) -> bool:
        return self.used == self.slots

    def write(self, row: Sequence[Tensor]) -> int:
        """Store a row; its slot."""
        assert self._map is not None
        slot = self._free.pop() if self._free else self._fresh
        self._fresh += slot == self._fresh
        start = slot * self.slot
        for part in row:
            size = part.numel() * part.element_size()
            self._map[start : start + size] = part.contiguous().reshape(-1).view(torch.uint8)
            start += size + -size % 16
        self.used += 1
        return slot

    def read(self, slot: int, like: Sequence[tuple[torch.Size, torch.dtype]]) -> tuple[Tensor, ...]:
        """A row as views of the file: copy them before the slot is freed."""
        assert self._map is not None
        start, row = slot * self.slot, []
        for shape, dtype in like:
            size = shape.numel() * dtype.itemsize
            row.append(self._map[start : start + size].view(dtype).view(shape))
            start += size + -size % 16
        return tuple(row)

    def free(self, slot: int) -> None:
        self._free.append(slot)
        self.used -= 1


def slot_bytes(like: Sequence[tuple[torch.Size, torch.dtype]]) -> int:
    """Bytes that a row takes in a slot."""
    sizes = [shape.numel() * dtype.itemsize for shape, dtype in like]
    return sum(size + -size % 16 for size in sizes)
