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
        self._cache_overhead = 0.0
        self._forward: dict[Cut | None, int] = {}
        self._began: float | None = None
        self.rows_per_step: int | None = None

    def begin_pass(self, passes: float, rows: int) -> None:
        """A training pass of ``rows`` samples begins, ``passes`` times the size of the surveyed one."""
        if self._began is None:
            self._began = time.perf_counter()
        self._passes += passes
        self._rows += rows

    def end_pass(self, found: Prepared, cache: ForwardCache) -> None:
        """Count what the forward cache saved in it, less what filling and proving took."""
        if cache.overhead > self._cache_overhead:
            self.costs.spend("cache", cache.overhead - self._cache_overhead)
            self._cache_overhead = cache.overhead
        saved = sum(rows * self._forward_of(found, cut) for cut, rows in cache.ledger.take()) / found.example_rows
        if saved:
            self.costs.add_passes(0.0, self._ranks, found.now, found.full, found.prefix, cached=saved)

    def _forward_of(self, found: Prepared, cut: Cut | None) -> int:
        """Forward FLOPs up to the cut, or of the whole model, for the surveyed batch; counted once for each cut."""
        if cut not in self._forward:
            executed = found.full.forward if cut is None else forward_flops_of(found.survey, cut.executed)
            self._forward[cut] = executed
        return self._forward[cut]

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
        self._forward.clear()  # with a checkpoint, prices of its own may have come
        self.costs = costs
