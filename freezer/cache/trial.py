"""Whether caching pays: pure decisions over what was measured and what is still to come. No bit depends on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

PASSES = 3
"""Passes that are measured before it is decided."""
GAIN = 0.8
"""A fetch must take less than this share of what computing takes."""


@dataclass(slots=True)
class Trial:
    """Seconds of a batch's prefix and of fetching the same rows, over a few passes."""

    compute: list[float] = field(default_factory=list)
    fetch: list[float] = field(default_factory=list)

    def add(self, compute: float, fetch: float) -> None:
        self.compute.append(compute)
        self.fetch.append(fetch)

    @property
    def done(self) -> bool:
        return len(self.compute) >= PASSES

    @property
    def refusal(self) -> str | None:
        """Why caching does not pay, once it is known."""
        if not self.done or median(self.fetch) < GAIN * median(self.compute):
            return None
        fetch, compute = 1e3 * median(self.fetch), 1e3 * median(self.compute)
        return f"fetching a batch takes {fetch:.2f} ms and computing it {compute:.2f} ms: caching would not pay"
