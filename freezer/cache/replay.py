"""Run a pass from cached values, or only up to the cut: stubs that stand in for the calls before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from freezer.cache.cut import Cut
from freezer.cache.tree import Action, Call, Record, Stop, acting, name_of
from freezer.errors import CacheError

Values = Sequence[Tensor]
"""Tensor leaves of a cut's output, in the order of its structure."""


class Replayer:
    """Stubs for one cut of one recorded pass.

    Args:
        modules: by path.
        record, cut: what to stand in for.
        full: dummies own their memory: for models that write into them. Else they are expanded scalars.
    """

    def __init__(self, modules: Mapping[str, nn.Module], record: Record, cut: Cut, *, full: bool = False) -> None:
        self.cut = cut
        self.full = full
        self.call = record.calls[cut.position]
        self._modules = modules
        self._scalars: dict[tuple[Any, ...], Tensor] = {}
        self._calls = {p: record.calls[p] for p in cut.stubs}
        # what really happens in a replay, for each module: calls inside of a skipped one do not
        skipped = {*cut.stubs, cut.position} - cut.real
        self._happening = [c for c in record.calls if not _within(record, c, skipped)]
        self._order: dict[str, list[int]] = {}
        for position in (*cut.stubs, cut.position):
            self._order.setdefault(record.calls[position].path, []).append(position)
        if cut.real:  # calls inside of what runs for real come before the module's later stubs
            for call in self._happening:
                if call.path in self._order and call.enter < cut.exit and call.position not in self._order[call.path]:
                    self._order[call.path].append(call.position)
            for order in self._order.values():
                order.sort()

    @contextmanager
    def replaying(self, values: Values, rows: int, poison: int = 0) -> Iterator[None]:
        """Inside, one pass over ``rows`` rows starts at the cut, from ``values``.

        Raises:
            CacheError: the model took another path than the recorded one.
        """
        done: list[int] = []
        with acting(self._actions(values, rows, poison, done, None)):
            yield
        if len(done) != len(self.cut.stubs) + 1:
            raise CacheError(
                f"the model did not call {name_of(self.cut.path)} as in the recorded pass: its path depends on "
                "more than the shapes of its inputs; set freeze.cache to 'off'"
            )

    def prefix(self, run: Callable[[], Any]) -> list[Tensor]:
        """Values at the cut: ``run()`` calls the model and is left there."""
        return self._stopped(run, {self._modules[self.cut.path]: self._until(self.cut.nth)})

    def advance(self, target: Replayer, values: Values, rows: int, run: Callable[[], Any]) -> list[Tensor]:
        """Values at a later cut from those at this one."""
        nth = sum(1 for c in self._happening if c.path == target.cut.path and c.position < target.cut.position)
        return self._stopped(run, self._actions(values, rows, 0, [], (self._modules[target.cut.path], nth)))

    def _stopped(self, run: Callable[[], Any], actions: Mapping[nn.Module, Any]) -> list[Tensor]:
        try:
            with acting(actions):
                run()
        except Stop as stop:
            return list(stop.value)
        raise CacheError(f"the model did not call {name_of(self.cut.path)} as in the recorded pass")

    def _until(self, nth: int) -> Callable[[int], Action | None]:
        return lambda n: _stop if n == nth else None

    def _actions(
        self,
        values: Values,
        rows: int,
        poison: int,
        done: list[int],
        target: tuple[nn.Module, int] | None,
    ) -> dict[nn.Module, Callable[[int], Action | None]]:
        actions: dict[nn.Module, Callable[[int], Action | None]] = {}
        for path, order in self._order.items():
            module = self._modules[path]
            stop = target[1] if target is not None and target[0] is module else -1
            actions[module] = self._chooser(order, values, rows, poison, done, stop)
        if target is not None and target[0] not in actions:
            actions[target[0]] = self._until(target[1])
        return actions

    def _chooser(
        self, order: list[int], values: Values, rows: int, poison: int, done: list[int], stop: int
    ) -> Callable[[int], Action | None]:
        def choose(n: int) -> Action | None:
            if n == stop:
                return _stop
            if n >= len(order):
                return None
            position = order[n]
            if position not in self._calls and position != self.cut.position:
                return None
            done.append(position)
            if position == self.cut.position:
                return lambda *_: self._output(self.call, values)
            if position in self.cut.real:
                return None
            return lambda *_: self._dummy(self._calls[position], rows, poison)

        return choose

    def _output(self, call: Call, values: Values) -> Any:
        assert call.spec is not None
        rest = iter(values)
        return tree_unflatten([next(rest) if leaf.dtype else leaf.constant for leaf in call.leaves], call.spec)

    def _dummy(self, call: Call, rows: int, poison: int) -> Any:
        """Values that are loud wherever they arrive: NaN, and the least integer; or, to be sure, large ones."""
        assert call.spec is not None
        leaves: list[Any] = []
        for leaf in call.leaves:
            if leaf.dtype is None:
                leaves.append(leaf.constant)
                continue
            key = (leaf.dtype, leaf.device, poison)
            scalar = self._scalars.get(key)
            if scalar is None:
                value = _poison(leaf.dtype, poison)
                scalar = self._scalars[key] = torch.full((), value, dtype=leaf.dtype, device=leaf.device)
            expanded = scalar.expand(leaf.at(rows))
            leaves.append(expanded.clone(memory_format=torch.contiguous_format) if self.full else expanded)
        return tree_unflatten(leaves, call.spec)


def rounding(module: nn.Module, nth: int) -> Mapping[nn.Module, Callable[[int], Action | None]]:
    """Actions for a whole pass whose values are rounded to bfloat16 at the cut."""

    def action(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tree_map(lambda x: rounded(x) if isinstance(x, Tensor) else x, real(*args, **kwargs))

    return {module: lambda n: action if n == nth else None}


def rounded(value: Tensor) -> Tensor:
    """Rounded to bfloat16, in the dtype it had; what is no wider stays."""
    wide = value.is_floating_point() and value.element_size() > 2
    return value.to(torch.bfloat16).to(value.dtype) if wide else value


def _stop(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise Stop(_leaves(real(*args, **kwargs)))


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _within(record: Record, call: Call, positions: set[int]) -> bool:
    while call.parent >= 0:
        if call.parent in positions:
            return True
        call = record.calls[call.parent]
    return False


def _poison(dtype: torch.dtype, poison: int) -> Any:
    if dtype == torch.bool:
        return bool(poison)
    if dtype.is_floating_point or dtype.is_complex:
        return 1e4 if poison else float("nan")
    return torch.iinfo(dtype).max if poison else torch.iinfo(dtype).min
