"""Proof on a real batch, bit for bit, that a pass may start at a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from freezer.buffers import same
from freezer.cache.attributes import Attributes
from freezer.cache.cut import Cut
from freezer.cache.ledger import Ledger
from freezer.cache.replay import PathError, Replayer, rounding
from freezer.cache.rows import Layout, pick
from freezer.cache.tree import Record, acting, buffers_of, modules_of, name_of, tensors, untouched
from freezer.untouched import kept_attributes


class CutFailed(Exception):
    """The pass may not start at this cut; the text says why. ``around``: something flows around it."""

    def __init__(self, text: str, *, around: bool = False) -> None:
        super().__init__(text)
        self.around = around


@dataclass(slots=True)
class Verified:
    """A cut that was proven.

    Attributes:
        rows: number of rows that the proof was made with; values have the bits that they have in this size.
        sizes: numbers of rows that give the same bits.
        refused: numbers of rows that do not.
        asked: how often a smaller number of rows would have done.
        layouts: of the tensor leaves at the cut; ``None`` for one without a batch dimension, whose value is in
            ``constants`` instead.
        like: shape and dtype of each part of a stored row.
    """

    replayer: Replayer
    rows: int
    layouts: list[Layout | None]
    constants: list[Tensor | None]
    like: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    sizes: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)

    def split(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Leaves with a batch dimension as rows, as they are stored."""
        return [lay.split(v) for lay, v in zip(self.layouts, values, strict=True) if lay is not None]

    def join(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The values at the cut from their rows."""
        rest = iter(parts)
        values = []
        for layout, constant in zip(self.layouts, self.constants, strict=True):
            if layout is None:
                assert constant is not None
                values.append(constant.clone())  # the model may write into it
            else:
                values.append(layout.join(next(rest)))
        return values


class Verifier:
    """Tries cuts on one batch. The model is left as it was, but for its plain attributes.

    Args:
        found: a pass over this very batch, with its output.
        narrow: whether values are rounded to bfloat16 at the cut.
        ledger: books the rows that go through the model.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Record,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        narrow: bool,
        ledger: Ledger,
    ) -> None:
        self._model = model
        self._modules = modules_of(model)
        self._found = found
        self._args, self._kwargs = tuple(args), dict(kwargs)
        self._narrow = narrow
        self._ledger = ledger
        self._values: list[Tensor] = []
        self._given = (list(args), dict(kwargs)) if found.written else ()

    def prove(self, cut: Cut) -> Verified:
        """Prove that a pass may start at ``cut``.

        Raises:
            CutFailed: it may not, with the reason.
        """
        rows = self._found.rows
        replayer = Replayer(self._modules, self._found, cut)
        values = self._first(replayer)
        leaves = [leaf for leaf in replayer.call.leaves if leaf.dtype is not None]
        layouts = [Layout.of(v, leaf, narrow=self._narrow) for v, leaf in zip(values, leaves, strict=True)]
        if not any(layouts):
            raise CutFailed(f"the output of {name_of(cut.path)} has no batch dimension")
        constants = [v if lay is None else None for v, lay in zip(values, layouts, strict=True)]
        verified = Verified(replayer, rows, layouts, constants, sizes={rows})
        verified.like = [(part.shape[1:], part.dtype) for part in verified.split(values)]
        self._same_output(verified, values)  # first: it is what mostly fails, and it fails at once
        self._same_in_company(verified, values)
        self._values = values
        return verified

    def proves_advance(self, source: Replayer, target: Verified, kept: Callable[[list[Tensor]], list[Tensor]]) -> bool:
        """Whether the values at the later cut, computed from those at the earlier one, have the same bits.

        Args:
            target: the cut that was proven last.
            kept: what the store would give back for values at the earlier cut.
        """
        old = kept(self._prefix(source, None))
        self._ledger.computed(target.replayer.cut, self._found.rows, source.cut)
        with untouched(self._model, *self._given):
            try:
                got = source.advance(target.replayer, old, self._found.rows, self._args, self._kwargs)
            except PathError:
                return False
        return _equal(self._values, got)

    def _call(self) -> Any:
        return self._model(*self._args, **self._kwargs)

    def _first(self, replayer: Replayer) -> list[Tensor]:
        """Values at the cut, and what a pass that is left there leaves behind."""
        before = Attributes(self._modules)
        with kept_attributes(self._model):
            values = self._prefix(replayer, None)
            replayer.traces = [(self._modules[path], name) for path, name in before.changed()]
        return values

    def _prefix(self, replayer: Replayer, index: Tensor | None) -> list[Tensor]:
        self._ledger.computed(replayer.cut, self._found.rows if index is None else len(index))
        args, kwargs = self._args, self._kwargs
        if index is not None:
            args, kwargs = pick((args, kwargs), index, self._found.rows)
        with untouched(self._model, *self._given):
            try:
                return [v.clone() for v in replayer.prefix(args, kwargs)]
            except PathError as error:
                raise CutFailed(str(error)) from error

    def _same_in_company(self, verified: Verified, values: list[Tensor]) -> None:
        """A sample's values must not depend on the others in its batch, nor on its place, nor on anything else."""
        where = name_of(verified.replayer.cut.path)
        for index in _companies(self._found.rows, (self._args, self._kwargs)):
            got = self._prefix(verified.replayer, index)
            if not rows_equal(verified.layouts, got, values, index):
                if not _equal(values, self._prefix(verified.replayer, None)):
                    raise CutFailed(f"{where} gives other values when it runs twice on the same inputs")
                raise CutFailed(f"a sample's values at {where} depend on the rest of its batch")

    def _same_output(self, verified: Verified, values: list[Tensor]) -> None:
        cut, rows = verified.replayer.cut, self._found.rows
        expected, left = self._found.output, self._found.buffers
        if self._narrow:
            self._ledger.ran(rows)
            with untouched(self._model, *self._given), acting(rounding(self._modules[cut.path], cut.nth)):
                expected, left = self._call(), buffers_of(self._model)
        kept = verified.join(verified.split(values))
        for poison in (0, 1):
            output, now = self._replay(verified, kept, rows, poison)
            if not outputs_equal(expected, output):
                self._ledger.ran(rows)
                with untouched(self._model, *self._given):
                    again = self._call()
                if not self._narrow and not outputs_equal(expected, again):
                    raise CutFailed(
                        "two passes over the same batch give different outputs, so that a replay cannot be verified"
                    )
                raise CutFailed(
                    f"a pass that starts at {name_of(cut.path)} gives another output: "
                    "something flows around it (a skip connection), or depends on more than its inputs",
                    around=True,
                )
            if not _equal(left, now):
                raise CutFailed(
                    f"a pass that starts at {name_of(cut.path)} leaves other values in the model's buffers: "
                    "something before it is noted there",
                    around=True,
                )
            if verified.replayer.call.recomputed and not self._same_gradients(expected, output):
                raise CutFailed(
                    f"{name_of(cut.path)} is recomputed in the backward pass together with later modules "
                    "(activation checkpointing): checkpoint each block by itself"
                )

    def _replay(self, verified: Verified, values: list[Tensor], rows: int, poison: int) -> tuple[Any, list[Tensor]]:
        """Output, and what is left in the buffers."""
        self._ledger.ran(rows, verified.replayer.cut)
        try:
            with (
                untouched(self._model, *self._given),
                verified.replayer.replaying([v.clone() for v in values], rows, poison),
            ):
                return self._call(), buffers_of(self._model)
        except RuntimeError as error:
            if not verified.replayer.full and "single memory location" in str(error):
                verified.replayer.full = True  # the model writes into what it was given
                return self._replay(verified, values, rows, poison)
            raise self._raised(verified, error) from error
        except Exception as error:
            raise self._raised(verified, error) from error

    def _raised(self, verified: Verified, error: Exception) -> CutFailed:
        return CutFailed(f"a pass that starts at {name_of(verified.replayer.cut.path)} raises: {error}")

    def _same_gradients(self, expected: Any, output: Any) -> bool:
        trained = [p for p in self._model.parameters() if p.requires_grad]
        with untouched(self._model, *self._given):
            ours = _gradients(output, trained)
        with untouched(self._model, *self._given):
            theirs = _gradients(expected, trained)
        return all(
            (a is None) == (b is None) and (a is None or b is None or same(a, b))
            for a, b in zip(ours, theirs, strict=True)
        )


def outputs_equal(a: Any, b: Any) -> bool:
    """Equal in structure and, tensors and numbers, bit for bit. An output without tensors never is."""
    ours, spec = tree_flatten(a)
    theirs, other = tree_flatten(b)
    if spec != other or not tensors(a):
        return False
    for x, y in zip(ours, theirs, strict=True):
        if isinstance(x, Tensor) != isinstance(y, Tensor):
            return False
        if isinstance(x, Tensor):
            if not same(x, y):
                return False
        elif isinstance(x, bool | int | float | str) and x != y:
            return False
    return True


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def rows_equal(
    layouts: Sequence[Layout | None], got: Sequence[Tensor], values: Sequence[Tensor], index: Tensor
) -> bool:
    """Whether row i of ``got`` is row ``index[i]`` of ``values``."""
    if len(got) != len(values):
        return False
    for layout, ours, theirs in zip(layouts, got, values, strict=True):
        if layout is None:
            if not same(ours, theirs):
                return False
            continue
        exact = Layout(layout.order, layout.place, layout.k, layout.dtype, layout.dtype, layout.device)
        if not same(exact.split(ours), exact.split(theirs).index_select(0, index.to(theirs.device))):
            return False
    return True


def _companies(rows: int, inputs: Any) -> list[Tensor]:
    """Other compositions of a batch: half of it twice and in reverse, and nothing but its fullest or emptiest rows.

    Places and neighbours are others for every row of the half, and every place holds a row that had another one. Rows
    differ in fullness where integers say so: texts of unlike length, which a model may trim together.
    """
    every = torch.arange(rows)
    if rows < 2:
        return [every]
    counts = [
        t.reshape(rows, -1).count_nonzero(1).cpu()
        for t in tensors(inputs)
        if t.dim() > 1 and t.shape[0] == rows and not t.is_floating_point() and not t.is_complex()
    ]
    unlike = [count for count in counts if count.min() < count.max()]
    extremes = {int(pick) for count in unlike for pick in (count.argmax(), count.argmin())}
    return [every.flip(0) // 2, *(torch.full((rows,), row) for row in sorted(extremes)[:4])]


def _gradients(output: Any, trained: Sequence[Tensor]) -> Sequence[Tensor | None]:
    parts = [t.float().sum() for t in tensors(output) if t.requires_grad]
    return torch.autograd.grad(torch.stack(parts).sum(), trained, retain_graph=True, allow_unused=True) if parts else []
