"""One form of input with its proven cut: found by recording a pass, kept until the plan or the weights change."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freezer.cache.attributes import Attributes
from freezer.cache.cut import Cut, Cuts, ancestors, cut_at
from freezer.cache.keys import Signature, Watch, concerned, moody, sources
from freezer.cache.ledger import Ledger
from freezer.cache.replay import Replayer
from freezer.cache.rows import pick
from freezer.cache.store import Shelf, Store
from freezer.cache.tree import Record, find_batch_dims, modules_of, record
from freezer.cache.verify import CutFailed, Verified, Verifier
from freezer.untouched import kept_attributes

Name = tuple[Any, ...]
_TRIES = 8
"""Most cuts that are tried in one search."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No cut for this form of input; ``early``: it was not even looked for, which may pay later on."""

    reason: str
    early: bool = False


@dataclass(slots=True)
class Line:
    """A proven cut for one form of input, and the shelf with its rows.

    Attributes:
        digest: hash of the frozen weights, modes and attributes that the values depend on; ``watch`` notices when they
            change.
        advances: how to come here from rows at earlier cuts, the latest of these first.
    """

    form: Signature
    cut: Cut
    verified: Verified
    watch: Watch
    digest: str
    name: Name
    shelf: Shelf
    device: torch.device
    advances: list[tuple[Replayer, Line]] = field(default_factory=list)

    def holds(self, *, afresh: bool = False) -> bool:
        """Whether its rows are what the model would compute now."""
        return self.watch.frozen and self.watch.digest(afresh=afresh) == self.digest


def search(
    model: nn.Module,
    store: Store,
    known: Sequence[Line],
    form: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rows: int,
    *,
    narrow: bool,
    seconds: MutableMapping[str, float],
    ledger: Ledger,
) -> Line | Refusal:
    """Record a pass, and prove the latest cut that can be proven.

    Args:
        known: lines from before whose rows are still valid.
        seconds: where the time of ``search`` and ``verify`` is added.
        ledger: books the rows that go through the model meanwhile.
    """
    modules = modules_of(model)
    own = {p: any(w.requires_grad for w in m.parameters(recurse=False)) for p, m in modules.items() if _owns(m)}
    attributes = Attributes(modules)  # as they are without our passes
    with kept_attributes(model):
        start = time.perf_counter()
        recorded = _record(model, modules, args, kwargs, rows, ledger)
        seconds["search"] += time.perf_counter() - start
        if isinstance(recorded, Refusal):
            return recorded
        start = time.perf_counter()
        cuts = Cuts(recorded, own)
        verifier = Verifier(model, recorded, args, kwargs, narrow=narrow, ledger=ledger)
        reasons: list[str] = []
        try:
            spoiled: set[int] = set()
            for cut in cuts:
                around = ancestors(recorded, recorded.calls[cut.position])
                if spoiled.intersection(around):
                    continue
                if len(reasons) == _TRIES:
                    break
                try:
                    verified = verifier.prove(cut)
                except CutFailed as failed:
                    reasons.append(str(failed))
                    if failed.around:
                        spoiled |= _skipping(recorded, around, modules)
                    continue
                watch = Watch(sources(modules, cut), moody(modules, cut), attributes.only(concerned(modules, cut)))
                line = _line(store, known, form, watch, cut, verified, narrow)
                if not narrow:  # rounded values at the earlier cut would give others here than computing from the start
                    line.advances = _advances(known, line, recorded, modules, own, verifier)
                return line
        finally:
            recorded.output, recorded.buffers = None, []  # with it goes the graph
            seconds["verify"] += time.perf_counter() - start
    return Refusal(reasons[0] if reasons else cuts.obstacle)


def _record(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rows: int,
    ledger: Ledger,
) -> Record | Refusal:
    """A pass over the batch, and what a pass over few of its rows tells about it."""
    before = Attributes(modules)
    recorded = record(model, args, kwargs, rows)
    moved, between = before.changed(), Attributes(modules)
    others = 2 if rows != 2 else 1  # few: only shapes are compared
    try:
        fewer_args, fewer_kwargs = pick((tuple(args), dict(kwargs)), torch.arange(others) % rows, rows)
        again = record(model, fewer_args, fewer_kwargs, others)
    except Exception as error:  # the model's own: rows of a graph, say, do not run without the others
        text = next(iter(str(error).splitlines()), type(error).__name__)
        return Refusal(f"the model does not run on {others} of its {rows} rows: {text[:200]}")
    if moved:  # what is made once, in the first pass, moves no more
        recorded.moving = set(moved).intersection(between.changed())
    again.output = None
    ledger.ran(rows + others)
    find_batch_dims(recorded, again)
    return recorded


def _skipping(recorded: Record, around: Sequence[int], modules: Mapping[str, nn.Module]) -> set[int]:
    """Of the calls around a cut, the block that most likely sends something past it, as residual blocks do.

    Sequences pass everything on as it is; the model itself may do anything.
    """
    inner = (p for p in around if not isinstance(modules[recorded.calls[p].path], nn.Sequential))
    block = next(inner, None)
    return set() if block is None or recorded.calls[block].parent < 0 else {block}


def _owns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _line(
    store: Store,
    known: Sequence[Line],
    form: Signature,
    watch: Watch,
    cut: Cut,
    verified: Verified,
    narrow: bool,
) -> Line:
    digest = watch.digest()
    name = (cut.path, cut.nth, digest, narrow, form, verified.rows)
    for line in known:  # the same cut as before: its rows serve if they have the bits of this size
        if line.name[:5] == name[:5] and verified.rows in line.verified.sizes:
            name = line.name
            verified.rows = line.verified.rows
            verified.sizes |= line.verified.sizes
            verified.refused |= line.verified.refused
    device = next(layout.device for layout in verified.layouts if layout is not None)
    return Line(form, cut, verified, watch, digest, name, store.shelf(name, verified.like), device)


def _advances(
    known: Sequence[Line],
    line: Line,
    recorded: Record,
    modules: Mapping[str, nn.Module],
    own: Mapping[str, bool],
    verifier: Verifier,
) -> list[tuple[Replayer, Line]]:
    found: list[tuple[Replayer, Line]] = []
    for old in known:
        if old.form != line.form or old.name == line.name or line.verified.rows not in old.verified.sizes:
            continue
        cut = cut_at(recorded, own, old.cut.path, old.cut.nth)
        if cut is None or cut.exit >= line.cut.exit:
            continue
        replayer = Replayer(modules, recorded, cut, full=old.verified.replayer.full)

        def kept(values: list[Tensor], old: Line = old) -> list[Tensor]:
            return old.verified.join(old.verified.split(values))

        if verifier.proves_advance(replayer, line.verified, kept):
            found.append((replayer, old))
    return sorted(found, key=lambda pair: -pair[0].cut.exit)
