"""What the forward cache spared and what it cost, in rows that went, or did not go, through a part of the model."""

from __future__ import annotations

from freezer.cache.cut import Cut

Entry = tuple[Cut | None, int]
"""Rows of forward work up to the cut, or through the whole model (``None``): spared if positive, spent if negative."""


class Ledger:
    """Books every row once, so that the sum is what was saved in the end; see :meth:`take`."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def replayed(self, cut: Cut, rows: int) -> None:
        """A training pass of ``rows`` rows began at ``cut``."""
        self._entries.append((cut, rows))

    def computed(self, cut: Cut, rows: int, source: Cut | None = None) -> None:
        """The values of ``rows`` rows at ``cut`` were computed, to be kept, as padding or for a proof; from those at
        ``source`` if given."""
        self._entries.append((cut, -rows))
        if source is not None:
            self._entries.append((source, rows))

    def ran(self, rows: int, start: Cut | None = None) -> None:
        """The model ran over ``rows`` rows to find or prove something, from ``start`` on if given."""
        self._entries.append((None, -rows))
        if start is not None:
            self._entries.append((start, rows))

    def take(self) -> list[Entry]:
        """What was booked since the last call."""
        taken, self._entries = self._entries, []
        return taken
