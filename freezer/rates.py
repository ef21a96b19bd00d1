"""A learning rate for each unit, without touching the user's parameter groups between two steps.

While ``optimizer.step`` runs, the optimizer sees groups split by rate; before and after it sees the user's own, so that
schedulers, ``state_dict`` and everything else know nothing. An optimizer's state belongs to parameters, not to groups.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from freezer.errors import ConfigError
from freezer.hooks import inside

Group = dict[str, Any]
_FROM_NOTHING = (
    "{} had the learning rate 0 when the Freezer was made, and the policy sets rates as shares of that one: nothing "
    "would ever train. Make the Freezer when the optimizer has its full rate, or set `initial_lr` in the group to it"
)


class UnitRates:
    """Scales the initial learning rate of each unit's parameters in every ``optimizer.step`` from now on.

    The step is wrapped, not hooked: PyTorch runs no post-hook after a step that raises, and the user would be left with
    split groups. A unit with factor 0 is left out of the step: neither its weights nor its moments change, whereas a
    rate of 0 would still flip the sign of a zero and let NaN in.

    Args:
        optimizer: any optimizer whose update of a parameter depends on its group and its own state alone (SGD, Adam and
            their kin, foreach and fused forms included). What it writes into a group, such as a count of its steps, is
            kept, provided that it is the same at any rate.
        unit_of: unit by ``id`` of the parameter; parameters of no unit keep their group's rate.
        rates: asked at every step for the factors, finite and not negative; units left out keep their group's rate.
        initial: initial rate of each group, where a schedule or a resume has changed it since; groups beyond them, and
            by default all, have :func:`initial_rate` now.

    Raises:
        ConfigError: an optimizer that updates all parameters as one (LBFGS), or leaves updates to another one; in a
            step, a group whose rate was 0 at first and no longer is.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        unit_of: Mapping[int, str],
        rates: Callable[[], Mapping[str, float]],
        *,
        initial: Sequence[float] | None = None,
    ) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS moves all parameters as one: it cannot have a learning rate for each unit", "/policy"
            )
        _refuse_hidden(optimizer)
        self.optimizer = optimizer
        given = [float(rate) for rate in initial or ()]
        if len(given) > len(optimizer.param_groups):
            raise ConfigError(f"{len(given)} initial rates for {len(optimizer.param_groups)} parameter groups")
        self.initial = [*given, *map(initial_rate, optimizer.param_groups[len(given) :])]
        self._unit_of = dict(unit_of)
        self._rates = rates
        self._open = True
        self._had = optimizer.__dict__.get("step")
        inner: Any = optimizer.step
        # a bound method with the attributes of what it wraps: schedulers wrap it again and look for their mark on it
        self._bound = MethodType(functools.wraps(getattr(inner, "__func__", inner))(self._step(inner)), optimizer)
        optimizer.__dict__["step"] = self._bound

    def _step(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            factors = self._rates() if self._open else {}
            if not factors:
                return inner(*args, **kwargs)
            groups = optimizer.param_groups
            pieces = self._split(groups, factors)
            optimizer.param_groups = [piece for of_one in pieces for piece in of_one]
            try:
                result = inner(*args, **kwargs)
            finally:
                optimizer.param_groups = groups
            for group, of_one in zip(groups, pieces, strict=True):
                group.update(self._written(group, of_one))
            return result

        return step

    def _split(self, groups: Sequence[Group], factors: Mapping[str, float]) -> list[list[Group]]:
        """For each group new ones over the same parameters, in the same order within each rate."""
        bad = next((name for name, f in factors.items() if not (math.isfinite(f) and f >= 0.0)), None)
        if bad is not None:
            raise ConfigError(f"the policy gives unit {bad!r} the learning-rate factor {factors[bad]}", "/policy")
        result: list[list[Group]] = []
        for position, group in enumerate(groups):
            own: list[Any] = []
            scaled: dict[float, list[Any]] = {}
            for parameter in group["params"]:
                factor = factors.get(self._unit_of.get(id(parameter), ""))
                if factor is None:
                    own.append(parameter)
                elif factor > 0.0:
                    scaled.setdefault(factor, []).append(parameter)
            result.append([{**_copied(group), "params": own}] if own else [])
            for factor, parameters in scaled.items():
                start = self._start(position, group)
                if not start and group["lr"]:
                    raise ConfigError(_FROM_NOTHING.format(f"group {position} of the optimizer"), "/policy")
                rate = _like(group["lr"], start * factor)
                result[-1].append({**_copied(group), "params": parameters, "lr": rate})
        return result

    def _written(self, group: Group, pieces: Sequence[Group]) -> Group:
        """What the step has written into the pieces of a group, which was left as it was."""
        found: Group = {}
        for piece in pieces:
            for key, value in piece.items():
                if key in ("params", "lr") or (key in group and _equal(group[key], value)):
                    continue
                if not _equal(found.setdefault(key, value), value):
                    name = type(self.optimizer).__name__
                    raise ConfigError(
                        f"{name} keeps {key!r} in its parameter groups, and it differs with the learning rate: units "
                        "cannot have rates of their own. Take an optimizer that keeps its state by parameter "
                        "(torch.optim.AdamW), or a policy that sets no rates",
                        "/policy",
                    )
        return found

    def _start(self, position: int, group: Group) -> float:
        """A group's initial rate; a group added later brings its own."""
        if position < len(self.initial):
            return self.initial[position]
        return initial_rate(group)

    def close(self) -> None:
        """The optimizer steps as before. Where somebody wrapped the step again, ours stays inside and does nothing."""
        self._open = False
        if self.optimizer.__dict__.get("step") is not self._bound:
            return
        if self._had is None:
            del self.optimizer.__dict__["step"]
        else:
            self.optimizer.__dict__["step"] = self._had


def _refuse_hidden(optimizer: Optimizer) -> None:
    """Refuse wrappers whose inner optimizer does not see the groups that the wrapper is given."""
    groups, probe = optimizer.param_groups, list(optimizer.param_groups)
    optimizer.param_groups = probe
    try:
        hidden = next((type(inner) for inner in inside(optimizer) if inner.param_groups is not probe), None)
    finally:
        optimizer.param_groups = groups
    if hidden is not None:
        raise ConfigError(
            f"{type(optimizer).__name__} leaves its updates to {hidden.__name__}, which would not see the learning "
            "rate of each unit. Take a plain optimizer, or a policy that sets no rates",
            "/policy",
        )


def refuse_nothing(initial: Sequence[float]) -> None:
    """Raise for initial rates of which no factor can make a rate.

    Raises:
        ConfigError: all are 0. Where only some are, those may be meant to: a step tells, see :class:`UnitRates`.
    """
    if not any(initial):
        raise ConfigError(_FROM_NOTHING.format("the optimizer"), "/policy")


def initial_rate(group: Mapping[str, Any]) -> float:
    """What a scheduler of PyTorch noted as the group's initial rate, else its rate now. Of ``OneCycleLR``, which begins
    at a small share of it, the rate that it rises to."""
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _copied(group: Group) -> Group:
    """With values that can be written into copied, so that no piece writes into another's."""
    return {key: _copy(value) for key, value in group.items() if key != "params"}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, list | dict | set) else value


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def _like(rate: Any, value: float) -> Any:
    """``value`` as a float, or as a new tensor where the rate is one (capturable optimizers)."""
    return torch.full_like(rate, value) if isinstance(rate, Tensor) else value
