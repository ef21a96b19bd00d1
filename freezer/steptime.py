"""How long steps took under one plan: enough to tell what is typical, small enough for every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

KEPT = 100


@dataclass(slots=True)
class StepTimes:
    """Seconds of the steps under one plan, measured.

    Attributes:
        unfrozen: whether nothing was frozen, by the plan.
        steps: how many were timed.
        seconds: of all of them together.
        every: each so many-th step is in the sample, from the first one on.
        sample: seconds of single steps, evenly spread, at most :data:`KEPT`.
    """

    unfrozen: bool
    steps: int = 0
    seconds: float = 0.0
    every: int = 1
    sample: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        if self.steps % self.every == 0:
            self.sample.append(seconds)
        self.steps += 1
        self.seconds += seconds
        if len(self.sample) > KEPT:
            self.sample, self.every = self.sample[::2], 2 * self.every

    @property
    def typical(self) -> float:
        """The median, which a first step's warm-up or a wait for a disk does not move."""
        return median(self.sample)


def full_training(times: Iterable[StepTimes]) -> tuple[float, float] | None:
    """``(seconds, ratio)`` estimated for full training over the same steps; ``None`` where no step ran unfrozen.

    Seconds are the median of the unfrozen steps times all steps. The ratio is this run over that, this run's steps
    counted by their medians too, so that like is compared with like.
    """
    times = [t for t in times if t.steps]
    unfrozen = [second for t in times if t.unfrozen for second in t.sample]
    if not unfrozen:
        return None
    whole = median(unfrozen) * sum(t.steps for t in times)
    return whole, sum(t.typical * t.steps for t in times) / whole if whole else 1.0
