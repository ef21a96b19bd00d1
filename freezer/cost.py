"""What a run costs and what full training would have cost. FLOPs are estimated from measured layers, bytes measured.

A training step costs forward F, weight gradients F and input gradients F (for products of two activations: forward
F, gradients 2F to 2.5F). A frozen unit saves its weight gradient; input gradients are saved only up to the first
active unit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

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
    """

    flops: float = 0.0
    flops_full: float = 0.0
    flops_prefix: float = 0.0
    bytes_full: int = 0
    bytes_measured: int = 0
    syncs: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add_passes(self, passes: float, ranks: int, now: StepFlops, full: StepFlops, prefix: StepFlops) -> None:
        """Count ``passes`` over the recorded batch (a fraction for smaller batches) on each of ``ranks`` ranks."""
        self.flops += passes * ranks * now.total
        self.flops_full += passes * ranks * full.total
        self.flops_prefix += passes * ranks * prefix.total

    def add_reduced(self, measured: int, syncs: int, full_bytes: int) -> None:
        """Count what the communication hook saw since the last call."""
        self.bytes_measured += measured
        self.syncs += syncs
        self.bytes_full += syncs * full_bytes

    def spend(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def savings(self) -> dict[str, dict[str, Any]]:
        """Measured and estimated figures apart; a ratio is this run over full training, ``None`` before any work."""
        return {
            "measured": {
                "allreduce_bytes": self.bytes_measured,
                "gradient_syncs": self.syncs,
                "overhead_seconds": round(sum(self.seconds.values()), 6),
                "overhead_seconds_by_kind": {k: round(v, 6) for k, v in sorted(self.seconds.items())},
            },
            "estimated": {
                "flops_this_run": self.flops,
                "flops_full_training": self.flops_full,
                "flops_ratio": _ratio(self.flops, self.flops_full),
                "flops_saved_by_prefix": self.flops_full - self.flops_prefix,
                "flops_saved_elsewhere": self.flops_prefix - self.flops,
                "allreduce_bytes_full_training": self.bytes_full,
                "allreduce_bytes_ratio": _ratio(self.bytes_measured, self.bytes_full),
            },
        }

    def report(self) -> dict[str, Any]:
        """The figures of :meth:`savings` once more, side by side for whom the totals are enough."""
        return {
            "flops": {"this_run": self.flops, "full_training": self.flops_full},
            "allreduce_bytes": {"measured": self.bytes_measured, "full_training_estimate": self.bytes_full},
            "savings": self.savings(),
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Costs:
        return cls(**{**values, "seconds": dict(values["seconds"])})


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
