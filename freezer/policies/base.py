"""What a freezing policy is: it looks at windows of weights and says which units have converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol, cast

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.units import Unit
from freezer.windows import Snapshot

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy's word on one unit at one freezing stage.

    Attributes:
        unit: name of the unit.
        converged: whether the policy would freeze it now. The planner has the last word.
        probability: calibrated probability of having converged in [0, 1], or ``None`` for policies without one.
        thaw: the unit is frozen and should train again. Not together with ``converged``.
    """

    unit: str
    converged: bool
    probability: float | None = None
    thaw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """Everything a policy may look at; copies, so that it can be read while training goes on.

    Attributes:
        step: completed optimizer steps at the freezing stage.
        total_steps: planned length of the run.
        units: all units in execution order; the last used one is the head.
        frozen: names of the units that are frozen now.
        windows: window of each recorded unit, oldest snapshot first.
        learning_rate: of the first parameter group at the stage.
        initial_learning_rate: the same group's rate when the freezer was made.
        config: the run's settings.
        extra: what the policy's own ``collect`` gave at this stage; empty for policies without one.
    """

    step: int
    total_steps: int
    units: Sequence[Unit]
    frozen: frozenset[str]
    windows: Mapping[str, Sequence[Snapshot]]
    learning_rate: float
    initial_learning_rate: float
    config: FreezeConfig
    extra: Mapping[str, Any] = field(default_factory=dict)


class Decides(Protocol):
    """All that a user's own policy must have, beside ``__init__(config)`` where it is made from the settings."""

    def decide(self, context: PolicyContext) -> list[Verdict]:
        """See :meth:`Policy.decide`."""


class Policy(Protocol):
    """Decides on rank 0, in a worker thread beside training. Same context, same verdicts.

    A user's class needs ``__init__(config)`` and ``decide`` only; :func:`complete` adds the rest from
    :class:`Defaults`.
    """

    @property
    def name(self) -> str:
        """Name in the settings and in every report."""

    @property
    def calendar(self) -> bool:
        """Whether it follows a calendar, not evidence: exempt from minimum gain, hysteresis and thaw triggers."""

    @property
    def at_start(self) -> bool:
        """Whether it has a freezing stage before the first step."""

    def decide(self, context: PolicyContext) -> list[Verdict]:
        """Verdicts on units; a unit left out counts as not converged. Runs beside training: read the context only."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values, bytes and CPU tensors with which :meth:`load_state_dict` restores the policy bit for bit."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""

    def watch(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        units: Sequence[Unit],
        example: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """Called once on rank 0, before the first step of this process, after a resume's :meth:`load_state_dict`.

        ``model`` is the bare model, ``example`` are ``(args, kwargs)`` of its first call in this process.
        """

    def collect(self, step: int) -> Mapping[str, Any]:
        """What :meth:`decide` will find in ``context.extra``; on rank 0, on the training thread, as a stage begins.

        Must be quick, and copy whatever training changes.
        """

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        """Factor on the initial learning rate of each unit for the update after ``step`` steps; on every rank.

        ``step`` is below ``total_steps``: beyond the end, the engine asks for the last planned step again.
        It replaces the user's schedule for the units named; pure in its arguments.
        """

    def close(self) -> None:
        """Take off what :meth:`watch` has put on model and optimizer; called when the freezer is closed."""


class Defaults:
    """The members that a policy may leave out: stateless, decides by evidence, watches nothing, sets no rates."""

    name: str = ""
    calendar: bool = False
    at_start: bool = False

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises:
        ValueError: the state is another policy's; refused, so that a mixed-up checkpoint is noticed.
        """
        if state:
            raise ValueError(f"policy {self.name!r} has no state, got {sorted(state)}")

    def watch(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        units: Sequence[Unit],
        example: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        del model, optimizer, units, example

    def collect(self, step: int) -> Mapping[str, Any]:
        del step
        return {}

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        del step, total_steps, units
        return {}

    def close(self) -> None:
        """Nothing to take off."""


_OPTIONAL = ("name", "calendar", "at_start", "state_dict", "load_state_dict", "watch", "collect", "rates", "close")
_METHODS = frozenset(_OPTIONAL[3:])


class _Completed(Defaults):
    """A user's policy with the missing members filled in."""

    def __init__(self, policy: Any, name: str) -> None:
        self.name = name
        for member in ("decide", *_OPTIONAL):
            if hasattr(policy, member):
                setattr(self, member, getattr(policy, member))

    def decide(self, context: PolicyContext) -> list[Verdict]:
        raise NotImplementedError  # always replaced: complete() checks that the user's policy has one


def complete(policy: Decides, name: str) -> Policy:
    """``policy`` itself if it has all members, else a policy that takes the missing ones from :class:`Defaults`.

    Args:
        policy: an object with at least ``decide(context)``.
        name: for policies that bear none, as an entry point's name.

    Raises:
        ConfigError: no ``decide``, a member that is not callable, or a state that can be saved and not restored.
    """
    kind = type(policy).__name__
    if isinstance(policy, type):
        raise ConfigError(f"policy {name!r} is the class {policy.__name__}, not an object of it", "/policy")
    if not callable(getattr(policy, "decide", None)):
        hint = "a policy needs decide(context), which returns a list of Verdict"
        raise ConfigError(f"policy {name!r} ({kind}) has no method 'decide': {hint}", "/policy")
    for member in _METHODS:
        if hasattr(policy, member) and not callable(getattr(policy, member)):
            raise ConfigError(f"{member!r} of policy {name!r} ({kind}) must be a method", "/policy")
    if hasattr(policy, "state_dict") != hasattr(policy, "load_state_dict"):
        hint = "has one of state_dict and load_state_dict: it needs both to resume, or neither if it keeps no state"
        raise ConfigError(f"policy {name!r} ({kind}) {hint}", "/policy")
    own_name: Any = getattr(policy, "name", None) if hasattr(policy, "name") else name
    if not (isinstance(own_name, str) and own_name):
        raise ConfigError(f"'name' of policy {name!r} ({kind}) must be a text", "/policy")
    whole = all(hasattr(policy, member) for member in _OPTIONAL)
    return cast(Policy, policy) if whole else _Completed(policy, name)


def overrides(policy: Policy, member: str) -> bool:
    """Whether the policy has this method of its own: what it does not have need not be called."""
    found: Any = getattr(policy, member)
    own = found.__func__ if isinstance(found, MethodType) else found
    return own is not vars(Defaults)[member]
