"""The forward cache of one rank: a training pass starts at the cut, from kept values, wherever that is exact."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freezer.cache.batch import Batch, Filler, settle
from freezer.cache.cut import Cut
from freezer.cache.fingerprint import augmented, fingerprints
from freezer.cache.keys import Signature, opaque, sample_keys, signature
from freezer.cache.ledger import Ledger
from freezer.cache.line import Line, Refusal, search
from freezer.cache.outlook import Outlook, Patience
from freezer.cache.prefetch import Prefetcher
from freezer.cache.replay import PathError, rounding
from freezer.cache.rows import first_dimension
from freezer.cache.settings import CacheSettings
from freezer.cache.store import Key, Store, stack
from freezer.cache.tree import acting, modules_of, name_of
from freezer.cache.trial import Trial

State = Literal["off", "waiting", "refused", "trial", "on"]
_FORMS = 16
_COUNTED = 4 * _FORMS
_TOO_MANY = Refusal(
    f"the inputs come in more than {_FORMS} forms: pad them to fewer lengths, and pass no numbers that keep changing"
)


class ForwardCache:
    """Keeps what the frozen bottom of a model computes for each sample, and starts passes from there.

    A value is a pure function of sample, draw, frozen weights, cut and dtype, so the weights of a run do not depend on
    what happens to be cached: a checkpoint needs nothing of it.

    Args:
        model: the bare model, which a wrapper may call.
        settings: bounds and mode.
        samples: different samples that this rank trains on, if known.
    """

    def __init__(self, model: nn.Module, settings: CacheSettings, *, samples: int | None = None) -> None:
        self._model = model
        self._modules = modules_of(model)
        self._settings = settings
        self._outlook = Outlook(samples)
        self._store = Store(settings.ram_bytes, settings.disk_bytes, settings.directory)
        self._prefetcher = Prefetcher()
        self._narrow = settings.dtype == "bf16"
        self._lines: dict[Signature, Line | Refusal] = {}
        self._sources: list[Line] = []
        self._line: Line | None = None
        self._final: str | None = None
        self._target: str | None = None
        self._forms: set[Signature] = set()
        self._trial = Trial()
        self._given_up = self._was_on = False
        self._patience = Patience()
        self._nothing_frozen = True
        self.ledger = Ledger()
        self._filler = Filler(model, self._store, self.ledger)
        self._state: State = "off" if settings.mode == "off" else "waiting"
        self._reason = "" if settings.mode == "off" else "no freezing plan is known yet"
        self._seconds = dict.fromkeys(("search", "verify", "trial", "fill", "fetch"), 0.0)
        self._counts = dict.fromkeys(("hits", "misses", "advances", "rows_replayed", "rows_computed"), 0)

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str:
        """Why the cache is not on, in a sentence; empty when it is."""
        return self._reason

    @property
    def cut(self) -> Cut | None:
        """Where passes start while the cache is in trial or on."""
        return self._line.cut if self._line is not None and self._state in ("trial", "on") else None

    @property
    def overhead(self) -> float:
        """Seconds spent so far on finding out whether and where to start passes; fills and fetches are not in it."""
        return self._seconds["search"] + self._seconds["verify"] + self._seconds["trial"]

    def report(self) -> dict[str, Any]:
        """State, counts, bytes and seconds; JSON values."""
        cut = self.cut
        return {
            "state": self._state,
            "reason": self._reason,
            "dtype": self._settings.dtype,
            "changes_numbers": self._narrow and self._line is not None,
            "note": "values are rounded to bfloat16 at the cut, which changes the run's numbers"
            if self._narrow
            else "",
            "cut": cut.path if cut is not None else None,
            "forms": sum(isinstance(line, Line) for line in self._lines.values()),
            **self._store.report(),
            **self._counts,
            "seconds": dict(self._seconds),
        }

    # -- the plan ----------------------------------------------------------------------------------------------------

    def retarget(self, plan_digest: str, remaining_steps: int, rows_per_step: int | None = None) -> None:
        """What is trained has changed, or weights were loaded. Rows stay whose weights are still frozen and the same.

        Cheap: the new cut is looked for in the next pass.

        Args:
            plan_digest: of the frozen set, for the report.
            remaining_steps: optimizer steps still to come.
            rows_per_step: samples of this rank in one step, where a step has several passes.
        """
        was_frozen = self._target not in (None, plan_digest) and not self._nothing_frozen
        self._outlook.changed(max(0, remaining_steps), rows_per_step, frozen_before=was_frozen)
        self._target = plan_digest
        self._patience.begin(self._counts["hits"])
        if self._settings.mode != "off":
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._prefetcher.drop()
        self._was_on = self._state == "on"
        self._sources = [line for line in self._known_lines() if line.holds(afresh=True)]
        self._store.keep_only([line.name for line in self._sources])
        self._store.stale = frozenset(id(line.shelf) for line in self._sources)
        self._lines, self._line, self._trial = {}, None, Trial()
        self._given_up = self._final is not None
        self._nothing_frozen = all(p.requires_grad for p in self._model.parameters())
        self._state, self._reason = "waiting", "the next training pass with sample ids looks for a cut"
        if self._final is not None:
            self._state, self._reason = "refused", self._final
        elif self._nothing_frozen:
            self._reason = "nothing is frozen"

    def _known_lines(self) -> list[Line]:
        lines = {line.name: line for line in self._sources}
        lines.update({line.name: line for line in self._lines.values() if isinstance(line, Line)})
        return list(lines.values())

    # -- one pass ----------------------------------------------------------------------------------------------------

    @contextmanager
    def around(
        self, ids: Tensor | None, draws: Tensor | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Iterator[None]:
        """The training pass runs inside, and starts at the cut where it can.

        Args:
            ids: int64 (n,), a number for each sample, n being the first dimension of the inputs; ``None``: the pass
                runs as it is.
            draws: int64 (n,), which variant of its augmentation each sample is; ``None``: there is but one.
            args, kwargs: what the model is called with.

        Raises:
            CacheError: ids or draws do not fit the inputs.
        """
        with self._stand_in(ids, draws, tuple(args), dict(kwargs)):
            yield

    def _stand_in(
        self, ids: Tensor | None, draws: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AbstractContextManager[None]:
        if self._target is None or self._settings.mode == "off" or not torch.is_grad_enabled():
            return nullcontext()
        rows = first_dimension((args, kwargs))
        keys = sample_keys(ids, draws, rows)
        idle = keys is None or self._given_up
        if not rows or self._nothing_frozen or (idle and not self._narrow):
            return nullcontext()
        line = self._line_for(args, kwargs, rows)
        if line is None:
            return nullcontext()
        if keys is not None and self._state in ("trial", "on"):
            values = self._values(line, keys, args, kwargs)
            if values is not None:
                self.ledger.replayed(line.cut, rows)
                return line.verified.replayer.replaying(values, rows, instead=partial(self._leave, line, rows))
        return self._rounded(line)

    def _leave(self, line: Line, rows: int, reason: str) -> AbstractContextManager[None]:
        """This pass runs as a whole, and so do all others."""
        self.ledger.computed(line.cut, rows)  # what was booked as replayed
        self._end(reason)
        return self._rounded(line)

    def _end(self, reason: str) -> None:
        """Off for good."""
        self._final = reason
        self._give_up(reason)

    def _rounded(self, line: Line) -> AbstractContextManager[None]:
        if self._narrow:
            return acting(rounding(self._modules[line.cut.path], line.cut.nth))
        return nullcontext()

    # -- where to cut ------------------------------------------------------------------------------------------------

    def _line_for(self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> Line | None:
        hidden = opaque(args, kwargs)
        if hidden is not None:
            self._refuse(hidden)
            return None
        form = signature(args, kwargs, rows)
        if len(self._forms) < _COUNTED:  # forms may be without end
            self._forms.add(form)
        self._outlook.saw(rows)
        line = self._lines.get(form)
        if isinstance(line, Line) and not line.watch.still and not line.holds():
            self._changed(line, rows)
            if self._given_up and not self._narrow:
                return None
            line = None
        if isinstance(line, Line) and rows > line.verified.rows and not self._size_is_good(line, rows, args, kwargs):
            line = None  # the larger size is the one to keep values of
        early = isinstance(line, Refusal) and line.early  # what lasts longer than expected is likely to last on
        if form not in self._lines and len(self._lines) >= _FORMS and not self._narrow:  # no number depends on it
            line = _TOO_MANY
        elif line is None or (early and self._seen_seldom(rows) is None):
            line = self._lines[form] = self._search(form, args, kwargs, rows)
        if isinstance(line, Refusal):
            self._refuse(line.reason)
            return None
        self._line = line
        return line

    def _refuse(self, reason: str) -> None:
        if self._state == "waiting":
            self._state, self._reason = "refused", reason

    def _changed(self, line: Line, rows: int) -> None:
        """Somebody wrote weights or attributes in between, trains them, or switched modes."""
        lost = self._patience.lost(self._counts["hits"], rows)
        self._begin_anew()
        if lost:
            self._give_up(f"{line.watch.changed} keeps changing between passes: values would not be used again")

    def _search(self, form: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> Line | Refusal:
        seldom = self._seen_seldom(rows)
        if seldom is not None and not self._narrow:
            return Refusal(seldom, early=True)
        found = search(
            self._model,
            self._store,
            self._known_lines(),
            form,
            args,
            kwargs,
            rows,
            narrow=self._narrow,
            seconds=self._seconds,
            ledger=self.ledger,
        )
        if isinstance(found, Refusal):
            return found
        current = {id(line.shelf) for line in (found, *self._lines.values()) if isinstance(line, Line)}
        self._store.stale = frozenset(id(shelf) for shelf in self._store.shelves.values()) - current
        if not self._store.holds_any(found.shelf):
            size = found.shelf.row_bytes
            seldom = f"one sample takes {size} bytes at {name_of(found.cut.path)}, more than cache_ram_mib allows"
        if self._state in ("waiting", "refused") and not self._given_up:
            self._state, self._reason = "trial", "a few passes are measured"
            if seldom is not None:
                self._give_up(seldom)
            elif self._was_on and found.advances:
                self._state, self._reason = "on", ""
        return found

    def _seen_seldom(self, rows: int) -> str | None:
        return self._outlook.refusal(rows, kept=sum(self._store.count()), forms=len(self._forms))

    def _size_is_good(self, line: Line, rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if rows not in line.verified.sizes and rows not in line.verified.refused:
            with self._timed("verify"):
                self._filler.prove_size(line, rows, args, kwargs)
        return rows in line.verified.sizes

    def _give_up(self, reason: str) -> None:
        """Off until the plan changes; rounding, which numbers depend on, goes on."""
        self._given_up = True
        self._state, self._reason = "refused", reason
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._prefetcher.drop()
        self._store.keep_only(())
        self._sources = []
        for line in self._lines.values():
            if isinstance(line, Line):
                line.advances = []
                line.shelf = self._store.shelf(line.name, line.verified.like)

    # -- values ------------------------------------------------------------------------------------------------------

    def _values(
        self, line: Line, keys: list[Key], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Tensor] | None:
        """Values at the cut for the whole batch, from the cache or computed; ``None``: the whole pass must run."""
        if not self._size_is_good(line, len(keys), args, kwargs):
            return None
        start = time.perf_counter()
        batch = Batch(line, keys, fingerprints((args, kwargs), len(keys)), args, kwargs)
        ready = self._prefetcher.take((line.name, tuple(keys)))
        batch.entries = [line.shelf.entries.get(key) for key in keys]
        for entry, key, print_ in zip(batch.entries, keys, batch.prints, strict=True):
            if entry is not None and entry.print != print_:
                self._end(augmented(*key))
                return None
        missing = len(batch.missing)
        self._counts["hits"] += len(keys) - missing
        self._counts["misses"] += missing
        self._counts["rows_replayed"] += len(keys) - missing
        self._counts["rows_computed"] += missing
        if not missing:
            values = line.verified.join(ready) if ready is not None else self._filler.assemble(batch)
            self._seconds["fetch"] += time.perf_counter() - start
            return values
        filled = self._fill(batch, missing)
        self._seconds["fill"] += time.perf_counter() - start
        return filled

    def _fill(self, batch: Batch, missing: int) -> list[Tensor] | None:
        measured = self._state == "trial" and missing == len(batch.keys)
        if measured:
            settle(batch.line.device)
        start = time.perf_counter()
        try:
            self._filler.compute(batch)
        except PathError as error:
            self._end(str(error))
            return None
        if measured:
            settle(batch.line.device)
        seconds = time.perf_counter() - start
        values = self._filler.assemble(batch)  # before the store is written: its views of the disk are read here
        self._filler.keep(batch)
        self._counts["advances"] += batch.advanced
        if measured and not batch.advanced:
            with self._timed("trial"):
                self._judge(batch, seconds)
        return values

    def _judge(self, batch: Batch, seconds: float) -> None:
        fetch = self._filler.time_fetch(batch)
        if fetch is None:
            return
        self._trial.add(seconds, fetch)
        if self._trial.done:
            refusal = self._trial.refusal
            if refusal is not None:
                self._give_up(refusal)
            else:
                self._state, self._reason = "on", ""

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - start

    # -- ahead of time -----------------------------------------------------------------------------------------------

    def prefetch(self, ids: Tensor, draws: Tensor | None = None) -> None:
        """Assemble the batch of these samples in a thread; the pass with the same ids and draws takes it."""
        line = self._line
        if line is None or self._state not in ("trial", "on"):
            return
        keys = tuple(sample_keys(ids, draws, None) or ())
        self._prefetcher.request((line.name, keys), lambda: self._ahead(line, keys))

    def _ahead(self, line: Line, keys: Sequence[Key]) -> list[Tensor] | None:
        with self._store.lock:
            entries = [line.shelf.entries.get(key) for key in keys]
            found = [entry for entry in entries if entry is not None]
            if len(found) < len(keys) or not found:
                return None
            return stack([self._store.row(line.shelf, entry) for entry in found], line.device)

    def close(self) -> None:
        """Give the memory, the disk space and the thread back. The model is as it was."""
        self._prefetcher.close()
        self._store.close()
        self._lines, self._sources, self._line, self._target = {}, [], None, None
        self._state, self._reason = "off", "closed"
