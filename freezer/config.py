"""What a user can set about freezing. Standard library only: the API validates with it, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from freezer.errors import require

Policy = Literal[
    "smartfrz",
    "smartfrz-paper",
    "static",
    "linear",
    "freezeout",
    "autofreeze",
    "egeria",
    "none",
    "random",
    "progress-only",
    "thaw-last",
]
UnitGrain = Literal["layer", "block"]
Mode = Literal["prefix", "any"]
Aggressiveness = Literal["conservative", "balanced", "fast"]
CacheMode = Literal["off", "auto"]
CacheDtype = Literal["exact", "bf16"]

POLICIES: tuple[str, ...] = get_args(Policy)
_READS_WINDOWS = ("smartfrz", "smartfrz-paper", "progress-only")
THRESHOLDS: dict[str, float] = {"conservative": 0.9, "balanced": 0.75, "fast": 0.5}
"""Probability that a unit has converged above which it freezes, by aggressiveness."""
LEARNED_MIN_GAIN = 0.2
"""``min_gain`` of policies with a predictor: few large changes, whose frozen prefix the forward cache can serve."""
ANNEALED_MIN_GAIN = 0.05
"""The same where units anneal one by one: each has come to rest at another time."""
ANNEAL = 0.8
"""``anneal`` that a service sets for networks trained from scratch with SGD: FreezeOut's own recommendation."""
_HAVE_START = ("static", "linear")
_DEFAULT = "smartfrz"
_SNAPSHOTS = 120
_STAGES = 24
_INTERVALS = 16  # the sources of the baselines have 10 to 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeConfig:
    """Settings of one freezing run.

    Counts are optimizer steps unless a name says otherwise. ``None`` for an interval means: derived from the
    length of the run by :meth:`schedule`, the same on every rank.
    """

    policy: str = _DEFAULT
    """Who decides: one of :data:`POLICIES`, or the name of a registered policy."""
    unit: UnitGrain = "layer"
    """What is frozen as one: ``layer`` (each weighted module with its norm) or ``block``."""
    mode: Mode = "prefix"
    """``prefix`` freezes only a contiguous run of units from the input; ``any`` freezes each unit on its own."""
    aggressiveness: Aggressiveness = "balanced"
    """How sure a predictor must be before a unit is frozen: it sets ``threshold`` where that is left open."""
    window: int | None = None
    """Snapshots per unit that a decision looks at (N of the paper). Before it is full, no learned policy decides. null:
    8; 30 for `smartfrz-paper`."""
    samples: int = 1024
    """Weights sampled from every unit, whatever its size (layer tailoring)."""
    snapshot_every: int | None = None
    """Steps between snapshots."""
    decide_every: int | None = None
    """Steps between freezing stages."""
    decision_delay: int = 1
    """Steps from a freezing stage to the step at which its verdict takes effect."""
    threshold: float | None = None
    """Calibrated probability of having converged above which a unit counts as converged. null: by ``aggressiveness``
    (conservative 0.9, balanced 0.75, fast 0.5)."""
    patience: int = 2
    """Positive verdicts in a row that freeze a unit (hysteresis)."""
    max_frozen_ratio: float = 1.0
    """Largest share of units that may be frozen; the last unit (the head) is never frozen."""
    min_gain: float | None = None
    """Smallest share of a full step's FLOPs that a change must save in each remaining step. null: 0.2 for policies with
    a predictor (0.05 with their option ``anneal``), else 0. Policies that follow a calendar are exempt, here and from
    ``event_steps``."""
    event_steps: float = 1.0
    """What a change of the frozen set may cost, in full steps: it must save more in the steps that remain."""
    thaw_on_lr_drop: float | None = 10.0
    """Thaw everything when the learning rate falls by this factor from one step to the next. null: never."""
    thaw_on_lr_restart: float | None = 2.0
    """Thaw everything when the learning rate, after having fallen, rises by this factor in one step. null: never."""
    thaw_on_worse: float | None = None
    """Thaw everything when the validation score falls more than this below the best since the last thaw (accuracy:
    0.01 is a point). null: never."""
    cache: CacheMode = "auto"
    """Forward cache of the frozen prefix: ``auto`` keeps its outputs wherever that is exact and a short trial pays."""
    cache_ram_mib: int = 2048
    """Memory that the forward cache may take on each rank, in MiB."""
    cache_disk_mib: int = 0
    """Disk space that the forward cache may take on each rank beyond its memory, in MiB."""
    cache_dtype: CacheDtype = "exact"
    """``exact`` keeps outputs bit for bit; ``bf16`` rounds them at the cut, whether they are cached yet or not."""
    pin: tuple[str, ...] = ()
    """Units that are never frozen. A name that matches no unit is an error."""
    seed: int = 0
    """Seed of sampling and of the random control."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the policy, checked by the policy (``static``: ``units``; ``linear``: ``start``, ``level``)."""

    def __post_init__(self) -> None:
        require(self.unit in get_args(UnitGrain), "/unit", f"unit must be one of {get_args(UnitGrain)}")
        require(self.mode in get_args(Mode), "/mode", f"mode must be one of {get_args(Mode)}")
        require(2 <= self.length <= 1024, "/window", "window must be between 2 and 1024 snapshots")
        require(8 <= self.samples <= 65536, "/samples", "samples must be between 8 and 65536")
        for name in ("snapshot_every", "decide_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"/{name}", f"{name} must be at least 1 step, or null")
        require(self.decision_delay >= 0, "/decision_delay", "decision_delay must not be negative")
        require(self.aggressiveness in THRESHOLDS, "/aggressiveness", f"must be one of {tuple(THRESHOLDS)}")
        between = self.threshold is None or 0.0 < self.threshold < 1.0
        require(between, "/threshold", "threshold must lie between 0 and 1, or be null")
        require(self.patience >= 1, "/patience", "patience must be at least 1")
        require(0.0 <= self.max_frozen_ratio <= 1.0, "/max_frozen_ratio", "must lie between 0 and 1")
        small = self.min_gain is None or 0.0 <= self.min_gain < 1.0
        require(small, "/min_gain", "min_gain must lie between 0 and 1, or be null")
        require(self.event_steps >= 0.0, "/event_steps", "event_steps must not be negative")
        for name in ("thaw_on_lr_drop", "thaw_on_lr_restart"):
            value = getattr(self, name)
            require(value is None or value > 1.0, f"/{name}", f"{name} is a factor above 1, or null")
        require(self.thaw_on_worse is None or self.thaw_on_worse >= 0.0, "/thaw_on_worse", "must not be negative")
        require(self.cache in get_args(CacheMode), "/cache", f"cache must be one of {get_args(CacheMode)}")
        require(self.cache_ram_mib >= 0, "/cache_ram_mib", "must not be negative")
        require(self.cache_disk_mib >= 0, "/cache_disk_mib", "must not be negative")
        require(self.cache_dtype in get_args(CacheDtype), "/cache_dtype", f"must be one of {get_args(CacheDtype)}")

    @property
    def length(self) -> int:
        """The ``window`` in force, in snapshots."""
        if self.window is not None:
            return self.window
        return 30 if self.policy == "smartfrz-paper" else 8

    @property
    def sure(self) -> float:
        """The threshold in force."""
        return THRESHOLDS[self.aggressiveness] if self.threshold is None else self.threshold

    @property
    def least_gain(self) -> float:
        """The ``min_gain`` in force."""
        if self.min_gain is not None:
            return self.min_gain
        if self.policy not in _READS_WINDOWS:
            return 0.0
        return ANNEALED_MIN_GAIN if self.options.get("anneal") else LEARNED_MIN_GAIN

    def deciding_by(self, policy: str) -> FreezeConfig:
        """The same settings, where ``policy`` decides.

        Raises:
            ConfigError: they name another one. The default is taken for none named.
        """
        named = self.policy not in (policy, _DEFAULT)
        require(not named, "/policy", f"the settings name the policy {self.policy!r}, not {policy!r}: name one of them")
        return replace(self, policy=policy)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FreezeConfig:
        """Build from JSON values; an unknown field is a :class:`ConfigError` with its pointer."""
        known = set(cls.__dataclass_fields__)
        for name in values:
            require(name in known, f"/{name}", f"unknown field {name!r}; known: {', '.join(sorted(known))}")
        values = dict(values)
        if "pin" in values:
            values["pin"] = tuple(values["pin"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the inverse of :meth:`from_dict`."""
        return {**asdict(self), "pin": list(self.pin)}

    def schedule(self, total_steps: int) -> Schedule:
        """The steps at which snapshots and freezing stages fall in a run of ``total_steps``.

        Derived where the user left it open: 120 snapshots a run, or as many more as fill the window by a quarter of it;
        about 24 stages follow. Policies that read no windows have 16 stages in all.

        Raises:
            ConfigError: the window can never be filled in this run, or no stage follows it.
        """
        snapshot_every = self.snapshot_every or max(1, total_steps // max(_SNAPSHOTS, 4 * self.length))
        first = (self.length - 1) * snapshot_every
        reads = self.policy in _READS_WINDOWS
        most = (total_steps - 1) // snapshot_every + 1
        ways = [f"a window of at most {most}"] if most >= 2 and self.policy != "smartfrz-paper" else []
        ways += ["a smaller snapshot_every"] if snapshot_every > 1 else []
        require(
            first < total_steps or not reads,
            "/window",
            f"a window of {self.length} snapshots, one every {snapshot_every} steps, needs {first + 1} steps, but "
            f"the run has {total_steps}: use {', or '.join([*ways, 'a longer run'])}",
        )
        every = (total_steps - first) // _STAGES if reads else total_steps // _INTERVALS
        decide_every = self.decide_every or _interval(self, total_steps) or max(1, every)
        last = (total_steps - 1) // decide_every * decide_every
        require(
            last >= max(first, 1) or not reads,
            "/decide_every",
            f"a freezing stage every {decide_every} steps in a run of {total_steps} has none once the window is full, "
            f"after {first} steps: use a smaller decide_every",
        )
        start = self.options.get("start")
        begins = start * total_steps if self.policy in _HAVE_START and isinstance(start, int | float) else 0
        require(
            begins == 0 or (begins <= last if self.policy == "static" else begins < last),
            "/options/start",
            f"freezing that begins at {start} of {total_steps} steps finds no freezing stage left, as the last one "
            f"comes after {last} steps: use a smaller start or decide_every",
        )
        return Schedule(
            total_steps=total_steps,
            window=self.length,
            snapshot_every=snapshot_every,
            decide_every=decide_every,
            delay=self.decision_delay,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Fixed steps of one run, equal on all ranks. Steps count completed optimizer steps; step 0 is before the first."""

    total_steps: int
    window: int
    snapshot_every: int
    decide_every: int
    delay: int

    def is_snapshot(self, step: int) -> bool:
        return step % self.snapshot_every == 0

    def is_stage(self, step: int) -> bool:
        """Whether a freezing stage begins after ``step`` completed steps."""
        return 0 < step < self.total_steps and step % self.decide_every == 0

    def takes_effect(self, step: int) -> bool:
        """Whether the verdict of a stage is applied after ``step`` completed steps."""
        return self.is_stage(step - self.delay)

    def next_stage(self, step: int) -> int | None:
        """The first stage after ``step``, or ``None`` when no more follows."""
        nxt = (step // self.decide_every + 1) * self.decide_every
        return nxt if nxt < self.total_steps else None


def _interval(config: FreezeConfig, total_steps: int) -> int | None:
    """Steps between stages where the option ``intervals`` of ``autofreeze`` sets them."""
    count = config.options.get("intervals") if config.policy == "autofreeze" else None
    return max(1, total_steps // count) if isinstance(count, int) and count > 0 else None
