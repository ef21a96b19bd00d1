"""Whether enough samples will be seen again to look for a cut at all, from what is known of the run."""

from __future__ import annotations

PROOF = 6
"""Passes up to the cut that finding and proving it takes, roughly."""
_CHANGES = 3


class Outlook:
    """How long what is frozen may be expected to stay as it is, and how many samples come again in that time.

    It is expected to last as long as frozen sets lasted in this run on average, or as long again as it has lasted
    already, whichever is longer; the first one to the end of the run.

    Args:
        samples: different ones that this rank trains on; ``None`` where it is not known: then nothing is held against
            caching.
    """

    def __init__(self, samples: int | None) -> None:
        self._samples = samples
        self._steps = 0
        self._rows_per_step: int | None = None
        self._lasted: list[int] = []
        self._rows = 0

    def changed(self, steps: int, rows_per_step: int | None, *, frozen_before: bool) -> None:
        """Something else is frozen, with ``steps`` steps to come; ``frozen_before``: something was until now."""
        if frozen_before:
            self._lasted.append(self._steps - steps)
        self._steps, self._rows_per_step, self._rows = steps, rows_per_step, 0

    def saw(self, rows: int) -> None:
        """A pass of so many samples began."""
        self._rows += rows

    def refusal(self, rows: int, *, kept: int, forms: int) -> str | None:
        """Why a proof would not pay now.

        Args:
            rows: of a pass.
            kept: samples whose values are there already.
            forms: in which the inputs come, such as padded lengths. Each needs a proof of its own.
        """
        if self._samples is None:
            return None
        per_step = self._rows_per_step or rows
        age = self._rows / per_step
        left = max(0, self._steps - int(age))
        missing = max(0, self._samples - kept)
        if left * per_step - missing < self._samples / 2:
            return (
                f"with {left} steps of {per_step} samples left, fewer than half of this rank's {self._samples} samples "
                "will be seen again"
            )
        if not self._lasted:
            return None
        typical = sum(self._lasted) / len(self._lasted)
        lasting = max(age, typical)
        if lasting >= left or (lasting * per_step - missing) / rows / forms >= PROOF:
            return None
        return (
            f"frozen sets have lasted {typical:.0f} steps on average: before the next change too few samples would be "
            "seen again to make up for the proof"
        )


class Patience:
    """With values that change from outside again and again, before a proof has paid: after three it is lost."""

    def __init__(self) -> None:
        self._changes = 0
        self._hits = 0

    def begin(self, hits: int) -> None:
        """Something else is frozen from here on."""
        self._changes, self._hits = 0, hits

    def lost(self, hits: int, rows: int) -> bool:
        """Something has changed from outside, after so many rows in all were replayed, ``rows`` in each pass."""
        paid = hits - self._hits >= PROOF * rows
        self._changes, self._hits = 0 if paid else self._changes + 1, hits
        return self._changes >= _CHANGES
