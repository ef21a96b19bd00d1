"""What a run costs and what full training would have cost. FLOPs are estimated from measured layers; bytes, seconds,
memory and energy are measured.

A training step costs forward F, weight gradients F and input gradients F (for products of two activations: forward
F, gradients 2F to 2.5F). A frozen unit saves its weight gradient; input gradients are saved only up to the first
active unit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from freezer.meter import Energy, Peak
from freezer.steptime import StepTimes, full_training
from freezer.trace import owner_of
from freezer.units import Site, Survey, Unit


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of one forward and backward pass."""

    forward: int
    weight_grad: int
    input_grad: int

    @property
    def total(self) -> int:
        return self.forward + self.weight_grad + self.input_grad


def step_flops(survey: Survey, frozen: Collection[str] = ()) -> StepFlops:
    """FLOPs of one pass over the recorded batch while ``frozen`` units are frozen."""
    active = [u for u in survey.units if u.used and u.name not in frozen]
    first = min((site.order for u in active for site in u.sites), default=None)
    sites: list[tuple[Site, bool]] = [(s, u.name not in frozen) for u in survey.units for s in u.sites]
    sites += [(site, False) for site in survey.fixed]
    forward = weight = inputs = 0
    for site, trained in sites:
        forward += site.flops + site.pair_flops
        weight += site.weight_flops if trained else 0
        if first is None:
            continue
        inputs += site.flops if site.input_order > first else 0
        inputs += site.pair_backward if site.order >= first else 0
    return StepFlops(forward, weight, inputs)


def forward_flops_of(survey: Survey, executed: Collection[str]) -> int:
    """Forward FLOPs, for the recorded batch, of what a replay need not run; rather too few than too many.

    Products of activations right before the cut do not count: they may lie behind it.

    Args:
        executed: paths of all modules with parameters of their own that ran before the cut.
    """
    done = {owner_of(path) for path in executed}
    sites = [s for u in survey.units for s in u.sites if s.module in done]
    sites += [s for s in survey.fixed if s.module in done]
    last = max((s.order for s in sites), default=-1)
    return sum(s.flops + (s.pair_flops if s.order < last else 0) for s in sites)


def leading(units: Sequence[Unit], frozen: Collection[str]) -> tuple[str, ...]:
    """The contiguous run of frozen units from the input."""
    names: list[str] = []
    for unit in units:
        if unit.name not in frozen:
            break
        names.append(unit.name)
    return tuple(names)


@dataclass(slots=True)
class Costs:
    """Counters of one run. FLOPs are of all ranks together, bytes are what one rank handed to all-reduce.

    Attributes:
        flops: estimate for this run.
        flops_full: estimate for full training over the same passes.
        flops_prefix: estimate if only the contiguous frozen prefix had been frozen: tells prefix savings apart.
        bytes_full: what full training would have reduced over the same synchronisations; an estimate.
        bytes_measured: gradient bytes really reduced, counted in the communication hook.
        syncs: gradient synchronisations.
        seconds: time spent by the freezer itself, by kind, on this rank.
        flops_cached: estimate of what the forward cache saved, less what its proofs took; :attr:`flops` is without it.
        times: how long steps took on this rank, by the number of the plan that they ran under.
        peaks: highest memory use of this rank, in bytes, by what was measured.
        joules: energy, measured; what ``energy_kind`` says.
        energy_gap: why the energy of the whole run is not known, if it is not.
    """

    flops: float = 0.0
    flops_full: float = 0.0
    flops_prefix: float = 0.0
    bytes_full: int = 0
    bytes_measured: int = 0
    syncs: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    flops_cached: float = 0.0
    times: dict[int, StepTimes] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    joules: float = 0.0
    energy_kind: str | None = None
    energy_gap: str | None = None

    def add_passes(
        self, passes: float, ranks: int, now: StepFlops, full: StepFlops, prefix: StepFlops, cached: float = 0.0
    ) -> None:
        """Count ``passes`` over the recorded batch (a fraction for smaller batches) on each of ``ranks`` ranks.

        ``cached``: forward FLOPs that the cache saved in these passes on this rank, net; the others are taken to be
        alike.
        """
        self.flops += passes * ranks * now.total - ranks * cached
        self.flops_cached += ranks * cached
        self.flops_full += passes * ranks * full.total
        self.flops_prefix += passes * ranks * prefix.total

    def add_reduced(self, measured: int, syncs: int, full_bytes: int) -> None:
        """Count what the communication hook saw since the last call."""
        self.bytes_measured += measured
        self.syncs += syncs
        self.bytes_full += syncs * full_bytes

    def spend(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def spend_step(self, plan_seq: int, seconds: float, *, unfrozen: bool | None = None) -> None:
        """Count one step: from the begin of its first forward pass to the end of ``freezer.step()``.

        ``unfrozen``: whether nothing is frozen under this plan; by default true of plan 0 alone.
        """
        known = self.times.get(plan_seq)
        if known is None:
            known = self.times[plan_seq] = StepTimes(plan_seq == 0 if unfrozen is None else unfrozen)
        known.add(seconds)

    def note(self, peak: Peak, energy: Energy) -> None:
        """Take in what the meters say: the peak so far, and the energy since the last call."""
        self.peaks[peak.kind] = max(self.peaks.get(peak.kind, 0), peak.bytes)
        if energy.joules is None:
            self.energy_gap = self.energy_gap or energy.kind
        elif self.energy_kind not in (None, energy.kind):
            self.energy_gap = f"parts were measured in different ways: {self.energy_kind}; {energy.kind}"
        else:
            self.energy_kind = energy.kind
            self.joules += energy.joules

    def savings(self) -> dict[str, dict[str, Any]]:
        """Measured and estimated figures apart; a ratio is this run over full training, ``None`` before any work."""
        whole, ratio = full_training(self.times.values()) or (None, None)
        measured_energy = self.energy_kind is not None and self.energy_gap is None
        return {
            "measured": {
                "allreduce_bytes": self.bytes_measured,
                "gradient_syncs": self.syncs,
                "overhead_seconds": round(sum(self.seconds.values()), 6),
                "overhead_seconds_by_kind": {k: round(v, 6) for k, v in sorted(self.seconds.items())},
                "timed_steps": sum(t.steps for t in self.times.values()),
                "step_seconds": round(sum(t.seconds for t in self.times.values()), 6),
                "step_seconds_by_plan": {
                    str(seq): {"steps": t.steps, "seconds": round(t.seconds, 6), "median": round(t.typical, 6)}
                    for seq, t in sorted(self.times.items())
                },
                **{f"peak_memory_bytes_{kind}": peak for kind, peak in sorted(self.peaks.items())},
                "energy_joules": round(self.joules, 3) if measured_energy else None,
                "energy_kind": self.energy_gap or self.energy_kind or "not measured yet",
            },
            "estimated": {
                "flops_this_run": self.flops,
                "flops_full_training": self.flops_full,
                "flops_ratio": _ratio(self.flops, self.flops_full),
                "flops_saved_by_prefix": self.flops_full - self.flops_prefix,
                "flops_saved_elsewhere": self.flops_prefix - self.flops - self.flops_cached,
                "flops_saved_by_cache": self.flops_cached,
                "allreduce_bytes_full_training": self.bytes_full,
                "allreduce_bytes_ratio": _ratio(self.bytes_measured, self.bytes_full),
                "full_training_seconds": None if whole is None else round(whole, 6),
                "seconds_ratio": ratio,
            },
        }

    def report(self) -> dict[str, Any]:
        """The figures of :meth:`savings` once more, side by side for whom the totals are enough."""
        savings = self.savings()
        measured, estimated = savings["measured"], savings["estimated"]
        return {
            "flops": {"this_run": self.flops, "full_training": self.flops_full},
            "allreduce_bytes": {"measured": self.bytes_measured, "full_training_estimate": self.bytes_full},
            "seconds": {
                "measured": measured["step_seconds"],
                "full_training_estimate": estimated["full_training_seconds"],
            },
            "savings": savings,
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Costs:
        """Inverse of :meth:`to_dict`, through JSON too; a checkpoint of an older version lacks the later counters."""
        times = {
            int(seq): StepTimes(**{**t, "sample": list(t["sample"])}) for seq, t in values.get("times", {}).items()
        }
        copies = {"seconds": dict(values["seconds"]), "times": times, "peaks": dict(values.get("peaks", {}))}
        older = {} if "energy_gap" in values else {"energy_gap": "not measured: an earlier part of the run was not"}
        return cls(**{**older, **values, **copies})


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
