"""Run a pass from cached values, or only up to the cut: stubs that stand in for the calls before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from freezer.cache.cut import Cut, ancestors
from freezer.cache.tree import Action, Call, Record, Stop, acting, name_of
from freezer.errors import CacheError
from freezer.untouched import hold_attributes, hold_inputs, hold_randomness

Values = Sequence[Tensor]
"""Tensor leaves of a cut's output, in the order of its structure."""


class _Left(BaseException):
    """The pass leaves the recorded path. Not an ``Exception``, so that no model's ``except`` swallows it."""


class PathError(CacheError):
    """The model took another path than the recorded one; nothing that matters has run, and all is as it was before."""


Instead = Callable[[str], AbstractContextManager[None]]
"""Told why a pass cannot start at the cut; inside of what it returns, the whole pass runs."""


class Replayer:
    """Stubs for one cut of one recorded pass.

    Args:
        modules: by path.
        record, cut: what to stand in for.
        full: dummies own their memory: for models that write into them. Else they are expanded scalars.

    Attributes:
        traces: attributes, as (module, name), that a pass leaves changed which is left at the cut: what a container
            puts aside and takes back later.
    """

    def __init__(self, modules: Mapping[str, nn.Module], record: Record, cut: Cut, *, full: bool = False) -> None:
        self.cut = cut
        self.full = full
        self.call = record.calls[cut.position]
        self.traces: Collection[tuple[nn.Module, str]] = ()
        self._written = record.written
        self._modules = modules
        self._noted = [module for path, module in modules.items() if path in cut.open and module._buffers]
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
        self._path = [*cut.stubs, cut.position]
        self._beyond = self._later(record)

    @contextmanager
    def replaying(self, values: Values, rows: int, poison: int = 0, instead: Instead | None = None) -> Iterator[None]:
        """Inside, one pass over ``rows`` rows starts at the cut, from ``values``.

        Args:
            instead: for a pass that leaves the recorded path before the cut. Nothing that is trained has run by then:
                the pass begins anew, as a whole. Without it that is an error.

        Raises:
            PathError: the model took another path than the recorded one.
        """
        done: list[int] = []
        actions = self._actions(values, rows, poison, done, None)
        if instead is not None:
            root = self._modules[""]
            with acting({root: lambda n: self._or_whole(actions, done, instead) if n == 0 else None}):
                yield
            return
        try:
            with acting(actions):
                yield
        except _Left:
            raise PathError(self._other_path) from None
        if done != self._path:
            raise PathError(self._other_path)

    def _or_whole(self, actions: Mapping[nn.Module, Any], done: list[int], instead: Instead) -> Action:
        def act(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            undo = self._hold(args, kwargs)
            try:
                with acting(actions):
                    output = real(*args, **kwargs)
                if done == self._path:
                    return output
            except _Left:
                pass
            except Exception:
                if done == self._path:
                    raise  # else it may be the dummies' fault
            undo()
            with instead(self._other_path):
                return real(*args, **kwargs)

        return act

    @property
    def _other_path(self) -> str:
        return (
            f"the model did not call {name_of(self.cut.path)} as in the recorded pass: its path depends on more than "
            "the shapes of its inputs"
        )

    def _hold(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], None]:
        """What undoes a pass that left the path."""
        randomness = hold_randomness({leaf.device for leaf in self.call.leaves if leaf.device is not None})
        attributes = hold_attributes(self._modules[""], self.traces) if self.traces else None
        inputs = hold_inputs(list(args), dict(kwargs)) if self._written else None
        buffers = [(b, b._version) for module in self._noted for b in module._buffers.values() if b is not None]

        def undo() -> None:
            if any(b._version != version for b, version in buffers):
                raise CacheError(f"{self._other_path}. It has changed its buffers by now; set freeze.cache to 'off'")
            randomness()
            for put_back in (attributes, inputs):
                if put_back is not None:
                    put_back()

        return undo

    def prefix(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """Values at the cut: the model is called, and left there.

        Raises:
            PathError: the model took another path than the recorded one.
        """
        actions = {m: _limited(before, _as_it_is) for m, (before, _) in self._beyond.items()}
        actions[self._modules[self.cut.path]] = self._until(self.cut.nth)
        return self._stopped(args, kwargs, actions)

    def advance(
        self, target: Replayer, values: Values, rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        """Values at a later cut from those at this one."""
        happening = [c.path for c in self._happening if c.enter < target.cut.exit]
        stop = self._modules[target.cut.path], happening.count(target.cut.path) - 1
        actions = self._actions(values, rows, 0, [], stop)
        paths = {module: path for path, module in self._modules.items()}
        for module in target._beyond:
            actions[module] = _limited(happening.count(paths[module]), actions.get(module, _as_it_is))
        return target._stopped(args, kwargs, actions)

    def _stopped(self, args: tuple[Any, ...], kwargs: dict[str, Any], actions: Mapping[nn.Module, Any]) -> list[Tensor]:
        undo = self._hold(args, kwargs)
        values: list[Tensor] | None = None
        try:
            with acting(actions):
                self._modules[""](*args, **kwargs)
        except Stop as stop:
            values = list(stop.value)
        except _Left:
            pass
        if values is None:
            undo()
            raise PathError(self._other_path)
        if self._written or self.traces:
            values = [value.clone() for value in values]
            undo()
        return values

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
        for module, (_, happening) in self._beyond.items():
            if module not in actions:
                actions[module] = self._before_the_cut(happening, done)
        return actions

    def _later(self, record: Record) -> dict[nn.Module, tuple[int, int]]:
        """Modules that containers around the cut call behind it, or never: how often each runs before the cut, in the
        recorded pass and in a replay. One that runs more often has left the path."""
        around = {self.call.position, *ancestors(record, self.call)}
        later = {c.path for c in record.calls if c.parent in around and c.enter > self.cut.exit}
        known = tuple(f"{c.path}." for c in record.calls if c.path and c.position not in around)
        ran = {c.path for c in record.calls}
        later |= {p for p in self._modules if p not in ran and not p.startswith(known)}
        before = [[c.path for c in calls if c.enter < self.cut.exit] for calls in (record.calls, self._happening)]
        return {
            self._modules[path]: (before[0].count(path), before[1].count(path))
            for path in later
            if not isinstance(self._modules[path], torch.jit.ScriptModule)
        }

    def _before_the_cut(self, most: int, done: list[int]) -> Callable[[int], Action | None]:
        return lambda n: None if n < most or done == self._path else _leave()

    def _chooser(
        self, order: list[int], values: Values, rows: int, poison: int, done: list[int], stop: int
    ) -> Callable[[int], Action | None]:
        def choose(n: int) -> Action | None:
            if n == stop:
                return _stop
            if n >= len(order):
                return None if done == self._path else _leave()
            position = order[n]
            if position not in self._calls and position != self.cut.position:
                return None
            if position != self._path[len(done)]:
                _leave()
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


def _leave() -> NoReturn:
    raise _Left


def _as_it_is(_: int) -> Action | None:
    return None


def _limited(most: int, choose: Callable[[int], Action | None]) -> Callable[[int], Action | None]:
    return lambda n: choose(n) if n < most else _leave()


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
