"""The values at the cut for one batch: rows from the store, and what is missing computed in proven batch sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freezer.cache.ledger import Ledger
from freezer.cache.line import Line
from freezer.cache.replay import PathError, Replayer
from freezer.cache.rows import pick
from freezer.cache.store import Entry, Key, Store, stack
from freezer.cache.verify import rows_equal
from freezer.untouched import kept_attributes

_ASKED = 3


@dataclass(slots=True)
class Batch:
    """One batch on its way through the cache.

    Attributes:
        entries: what the store has, ``None`` for a missing row.
        made: parts that were computed, with the positions of their rows, in order.
    """

    line: Line
    keys: Sequence[Key]
    prints: Sequence[int]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    entries: list[Entry | None] = field(default_factory=list)
    made: list[tuple[list[int], list[Tensor]]] = field(default_factory=list)
    advanced: int = 0
    kept: int = 0

    @property
    def missing(self) -> list[int]:
        return [i for i, entry in enumerate(self.entries) if entry is None]


class Filler:
    """Computes rows, and keeps them where there is room."""

    def __init__(self, model: nn.Module, store: Store, ledger: Ledger) -> None:
        self._model = model
        self._store = store
        self._ledger = ledger

    def compute(self, batch: Batch) -> None:
        """Compute the missing rows: from an earlier cut where rows of it are there, else from the inputs."""
        missing = batch.missing
        for replayer, old in batch.line.advances:
            chosen = [i for i in missing if self._serves(old, batch, i)]
            if chosen:
                self._make(batch, chosen, (replayer, old))
                batch.advanced += len(chosen)
                gone = set(chosen)
                missing = [i for i in missing if i not in gone]
        if missing:
            self._make(batch, missing, None)

    def keep(self, batch: Batch) -> None:
        """Put what was computed into the store; each row owns its memory there."""
        line = batch.line
        for positions, parts in batch.made:
            host = [part.cpu() for part in parts]
            for j, i in enumerate(positions):
                for _, old in line.advances:
                    self._store.remove(old.shelf, batch.keys[i])
                row = tuple(part[j].clone() for part in host)
                batch.kept += self._store.put(line.shelf, batch.keys[i], row, batch.prints[i])

    def assemble(self, batch: Batch) -> list[Tensor]:
        """Values at the cut for the whole batch."""
        line, count = batch.line, len(batch.keys)
        if len(batch.made) == 1 and len(batch.made[0][0]) == count:
            return line.verified.join(batch.made[0][1])
        blocks, order = [parts for _, parts in batch.made], [i for positions, _ in batch.made for i in positions]
        hits = [(i, entry) for i, entry in enumerate(batch.entries) if entry is not None]
        if hits:
            blocks.append(stack([self._store.row(line.shelf, entry) for _, entry in hits], line.device))
            order += [i for i, _ in hits]
        if len(blocks) == 1 and order == list(range(count)):
            return line.verified.join(blocks[0])
        back = torch.tensor(order).argsort().to(line.device)
        return line.verified.join([torch.cat(group).index_select(0, back) for group in zip(*blocks, strict=True)])

    def time_fetch(self, batch: Batch) -> float | None:
        """Seconds that a fetch of these rows takes, or ``None`` where none could be kept."""
        found = [e for e in (batch.line.shelf.entries.get(key) for key in batch.keys) if e is not None]
        if not found:
            return None
        start = time.perf_counter()
        batch.line.verified.join(stack([self._store.row(batch.line.shelf, e) for e in found], batch.line.device))
        settle(batch.line.device)
        return (time.perf_counter() - start) * len(batch.keys) / len(found)

    def prove_size(self, line: Line, rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether ``rows`` rows at once give the bits that the proven size gives, tried on these inputs."""
        verified, proven = line.verified, line.verified.rows

        def run(index: Tensor) -> list[Tensor]:
            self._ledger.computed(line.cut, len(index))
            return [v.clone() for v in self._prefix(line, args, kwargs, index, rows)]

        good, every = True, torch.arange(rows)
        try:
            with kept_attributes(self._model):
                whole = run(every)
                for first in range(0, rows, proven):
                    index = (first + torch.arange(proven)) % rows
                    part = run(index)
                    if rows < proven:
                        good = rows_equal(verified.layouts, whole, part, every)
                    else:
                        good = good and rows_equal(verified.layouts, part, whole, index)
        except PathError:
            good = False
        (verified.sizes if good else verified.refused).add(rows)
        return good

    def _ask_for_less(self, batch: Batch, count: int) -> None:
        """Prove half the proven size, or half of that, once it has been wanted a few times: a proof has its price."""
        line, verified = batch.line, batch.line.verified
        less = verified.rows
        while less // 2 >= count:
            less //= 2
        if less in verified.sizes or less in verified.refused or len(batch.keys) < verified.rows:
            return
        verified.asked[less] = verified.asked.get(less, 0) + 1
        if verified.asked[less] == _ASKED:
            self._ledger.computed(line.cut, verified.rows + less)
            try:
                with kept_attributes(self._model):
                    whole, part = (
                        [
                            v.clone()
                            for v in self._prefix(line, batch.args, batch.kwargs, torch.arange(n), len(batch.keys))
                        ]
                        for n in (verified.rows, less)
                    )
                good = rows_equal(verified.layouts, part, whole, torch.arange(less))
            except PathError:
                good = False
            (verified.sizes if good else verified.refused).add(less)

    def _serves(self, old: Line, batch: Batch, position: int) -> bool:
        entry = old.shelf.entries.get(batch.keys[position])
        return entry is not None and entry.print == batch.prints[position]

    def _prefix(
        self, line: Line, args: tuple[Any, ...], kwargs: dict[str, Any], index: Tensor | None, rows: int
    ) -> list[Tensor]:
        if index is not None:
            args, kwargs = pick((args, kwargs), index, rows)
        return line.verified.replayer.prefix(args, kwargs)

    def _make(self, batch: Batch, chosen: list[int], source: tuple[Replayer, Line] | None) -> None:
        line, rows = batch.line, len(batch.keys)
        self._ask_for_less(batch, len(chosen))
        size = min(s for s in line.verified.sizes if s >= len(chosen))
        padded = [chosen[i % len(chosen)] for i in range(size)]
        index = None if padded == list(range(rows)) else torch.tensor(padded)
        if source is None:
            values = self._prefix(line, batch.args, batch.kwargs, index, rows)
        else:
            replayer, old = source
            found = [self._store.row(old.shelf, old.shelf.entries[batch.keys[i]]) for i in padded]
            start = old.verified.join(stack(found, line.device))
            args, kwargs = batch.args, batch.kwargs
            if index is not None:
                args, kwargs = pick((args, kwargs), index, rows)
            values = replayer.advance(line.verified.replayer, start, size, args, kwargs)
        self._ledger.computed(line.cut, size, source[1].cut if source is not None else None)
        batch.made.append((chosen, [part[: len(chosen)] for part in line.verified.split(values)]))


def settle(device: torch.device) -> None:
    """Wait for the device, to read the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
