"""Windows of weight snapshots: the port, the codec and the in-memory ring. Standard library only.

A snapshot of a unit is ``samples`` float32 values, little-endian, taken after a known number of completed steps. The
ring keeps the newest ``capacity`` snapshots of each unit.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_HEADER = struct.Struct("<qI")  # step, number of float32 values


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One sample of one unit's weights.

    Attributes:
        step: completed optimizer steps when it was taken.
        values: float32, little-endian, shape ``(samples,)``.
    """

    step: int
    values: bytes

    def __len__(self) -> int:
        return len(self.values) // 4


def encode(snapshot: Snapshot) -> bytes:
    """Wire form: int64 step, uint32 count, then the values."""
    return _HEADER.pack(snapshot.step, len(snapshot)) + snapshot.values


def decode(data: bytes) -> Snapshot:
    """Inverse of :func:`encode`.

    Raises:
        ValueError: the data is cut or has a wrong length.
    """
    if len(data) < _HEADER.size:
        raise ValueError("snapshot data is cut")
    step, count = _HEADER.unpack_from(data)
    values = data[_HEADER.size :]
    if len(values) != 4 * count:
        raise ValueError(f"snapshot says {count} values but carries {len(values)} bytes")
    return Snapshot(step, values)


class WindowStore(Protocol):
    """Keeps the newest snapshots of each unit of one run."""

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        """Record one snapshot of every unit in ``values``. Steps never go backward; a repeated step replaces."""

    def read(self, unit: str) -> Sequence[Snapshot]:
        """The unit's window, oldest first; empty for a unit that was never recorded."""

    def units(self) -> Sequence[str]:
        """Names of the units recorded, sorted."""

    def drop(self, unit: str) -> None:
        """Forget a unit's window (it is frozen, or recorded anew)."""

    def clear(self) -> None:
        """Forget everything."""


class MemoryWindows:
    """The ring in this process: complete and local, so that decisions never wait for a store."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self._rings: dict[str, deque[Snapshot]] = {}

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        for unit, data in values.items():
            ring = self._rings.setdefault(unit, deque(maxlen=self.capacity))
            if ring and ring[-1].step > step:
                raise ValueError(f"snapshot of {unit!r} at step {step} after one at step {ring[-1].step}")
            if ring and ring[-1].step == step:
                ring.pop()
            ring.append(Snapshot(step, bytes(data)))

    def read(self, unit: str) -> list[Snapshot]:
        return list(self._rings.get(unit, ()))

    def units(self) -> list[str]:
        return sorted(self._rings)

    def drop(self, unit: str) -> None:
        self._rings.pop(unit, None)

    def clear(self) -> None:
        self._rings.clear()


def dump(store: WindowStore) -> dict[str, list[tuple[int, bytes]]]:
    """Everything that a store holds, as ``(step, values)`` for each unit: plain values for a checkpoint."""
    return {unit: [(s.step, s.values) for s in store.read(unit)] for unit in store.units()}


def restore(store: WindowStore, dumped: Mapping[str, Sequence[tuple[int, bytes]]]) -> None:
    """Put exactly what :func:`dump` gave into the store."""
    store.clear()
    by_step: dict[int, dict[str, bytes]] = {}
    for unit, ring in dumped.items():
        for step, values in ring:
            by_step.setdefault(step, {})[unit] = values
    for step in sorted(by_step):
        store.append(step, by_step[step])
