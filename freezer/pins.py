"""PURE: units that are never frozen. What was pinned or unpinned by hand lasts over a resume, whatever its settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pins:
    """What was done by hand.

    Attributes:
        added: names of units that were pinned.
        removed: names of units that the settings pin and that were unpinned.
    """

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def in_force(self, settings: Collection[str]) -> frozenset[str]:
        """All that are pinned, where ``settings`` pins these."""
        return (frozenset(settings) - self.removed) | self.added

    def pin(self, names: Collection[str]) -> Pins:
        return Pins(self.added | frozenset(names), self.removed - frozenset(names))

    def unpin(self, names: Collection[str], settings: Collection[str]) -> Pins:
        return Pins(self.added - frozenset(names), self.removed | (frozenset(names) & frozenset(settings)))

    def to_dict(self) -> dict[str, list[str]]:
        """JSON values."""
        return {"added": sorted(self.added), "removed": sorted(self.removed)}

    @classmethod
    def from_state(cls, state: Any) -> Pins:
        """Inverse of :meth:`to_dict`; earlier versions kept one list of all, or ``None`` before the first pass."""
        if isinstance(state, dict):
            return cls(frozenset(state["added"]), frozenset(state["removed"]))
        return cls(frozenset(state or ()))
