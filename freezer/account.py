"""Books of one run on one rank: what each pass and step costs, as the passes come."""

from __future__ import annotations

import time

import torch

from freezer.cache import Cut, ForwardCache
from freezer.cost import Costs, forward_flops_of
from freezer.meter import EnergyMeter, peak_memory
from freezer.plan import FreezePlan
from freezer.prepared import Prepared


class Account:
    """Feeds :class:`freezer.cost.Costs` from clocks, meters and the forward cache.

    Args:
        device: where the model trains.
        ranks: how many do the same work.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self.costs = Costs()
        self._device = device
        self._ranks = ranks
        self._meter = EnergyMeter(device)
        self._passes = 0.0
        self._rows = 0
        self._replayed = 0
        self._cache_overhead = 0.0
        self._skips: tuple[Cut | None, int] = (None, 0)
        self._began: float | None = None
        self.rows_per_step: int | None = None

    def begin_pass(self, passes: float, rows: int) -> None:
        """A training pass of ``rows`` samples begins, ``passes`` times the size of the surveyed one."""
        if self._began is None:
            self._began = time.perf_counter()
        self._passes += passes
        self._rows += rows

    def end_pass(self, found: Prepared, cache: ForwardCache) -> None:
        """Count what the forward cache saved in it and what it took; the cut may be another one in the next pass."""
        if cache.overhead > self._cache_overhead:
            self.costs.spend("cache", cache.overhead - self._cache_overhead)
            self._cache_overhead = cache.overhead
        replayed = cache.skipped["replayed"]
        rows, self._replayed = replayed - self._replayed, replayed
        cut = cache.cut
        if rows and cut is not None:
            if self._skips[0] is not cut:  # once for each cut, not in each pass
                self._skips = (cut, forward_flops_of(found.survey, cut.executed))
            saved = rows / found.example_rows * self._skips[1]
            self.costs.add_passes(0.0, self._ranks, found.now, found.full, found.prefix, cached=saved)

    def end_work(self, found: Prepared, reduced: tuple[int, int]) -> None:
        """The optimizer has made its step."""
        self.costs.add_passes(self._passes, self._ranks, found.now, found.full, found.prefix)
        self.costs.add_reduced(*reduced, found.full_bytes)
        self.rows_per_step, self._rows, self._passes = self._rows or None, 0, 0.0

    def end_step(self, plan: FreezePlan) -> None:
        """The whole step is over; ``plan`` was in force during it."""
        self._meter.tick()
        if self._began is not None:
            self.costs.spend_step(plan.seq, time.perf_counter() - self._began, unfrozen=not plan.frozen)
        self._began = None

    def note(self) -> Costs:
        """The counters, with what the meters say now."""
        self.costs.note(peak_memory(self._device), self._meter.read())
        return self.costs

    def restore(self, costs: Costs) -> None:
        """Go on from a checkpoint's counters; energy spent since this process began is not the run's."""
        self._meter.read()
        self.costs = costs
