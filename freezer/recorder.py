"""Snapshots beside training: weights are gathered while the next pass runs, and reach the windows in a worker thread.

Two threads, each strictly in order. The *gatherer* reads weights: on the CPU between two optimizer steps, where they
do not change, so the step waits for it; it must never stand behind a slow policy. The *worker* takes finished
snapshots into the windows and runs what is submitted, so a policy sees exactly the snapshots taken before its stage.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from freezer.errors import FreezerError
from freezer.hooks import before_step
from freezer.parallel import Stopwatch
from freezer.trajectory import Sampler, rows_of
from freezer.windows import Snapshot, WindowStore, dump, restore

T = TypeVar("T")
BACKLOG = 64
"""Snapshots that may wait for a slow policy or store before training waits: they are held in memory."""


class Recorder:
    """Takes snapshots of one model into one store. No thread before the first snapshot, no work in other steps.

    On the CPU the gatherer is trusted only once an optimizer step found the weights as the snapshot before left them;
    until then, and with an optimizer that has no step hooks, snapshots are taken at once. Once something else wrote
    weights while it was trusted (averaging, Lookahead, a swap for evaluation), it is never trusted again; a snapshot
    that may hold values of before and after is dropped. Weights that are written between two steps through ``.data``
    escape this check: call :meth:`drain` before.

    An error of the store or of a device is raised, as what it is, by the next call on the training thread.

    Args:
        windows: where snapshots go; used by one thread at a time.
        optimizer: changes the weights.
        capacity: snapshots of a unit that the store keeps.
        spend: told ``("snapshot_wait", seconds)`` where an optimizer step had to wait.
    """

    def __init__(
        self, windows: WindowStore, optimizer: Optimizer, *, capacity: int, spend: Callable[[str, float], None]
    ) -> None:
        self._windows = windows
        self._optimizer = optimizer
        self._capacity = capacity
        self._spend = spend
        self._sampler: Sampler | None = None
        self._hook: Any = None
        self._gatherer: ThreadPoolExecutor | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._worker_id = 0
        self._gathering: Future[dict[str, bytes] | None] | None = None
        self._backlog: deque[Future[None]] = deque()
        self._failed: BaseException | None = None
        self._told = False
        self._trusted = False
        self._betrayed = False
        self._watched: tuple[list[nn.Parameter], list[int]] | None = None
        self._counts: dict[str, tuple[int, int]] = {}
        self._counts_before: dict[str, tuple[int, int]] = {}  # the last snapshot

    def use(self, sampler: Sampler) -> None:
        """Sample with this from now on; before the first :meth:`record`."""
        self._sampler = sampler

    # -- on the training thread --------------------------------------------------------------------------------------

    def record(self, step: int, names: Iterable[str]) -> None:
        """Take a snapshot of these units after ``step`` completed steps; returns before it is in the windows.

        Raises:
            UnitError: a name that is no sampled unit.
        """
        sampler, names = self._sampler, list(names)
        if sampler is None:
            raise FreezerError("the recorder has no sampler: call use() first")
        self.check()
        self._settle()
        self._bound()
        if not names:
            return
        gathered = self._begin(sampler, names)
        self._backlog.append(self._start().submit(self._append, step, gathered))
        self._counts_before = dict(self._counts)
        for name in names:
            last, count = self._counts.get(name, (-1, 0))
            self._counts[name] = (step, min(self._capacity, count + (step != last)))

    def _begin(self, sampler: Sampler, names: list[str]) -> Future[dict[str, bytes] | None]:
        """Start to gather, in the way that the device and the optimizer allow."""
        if self._gatherer is None:
            self._gatherer = ThreadPoolExecutor(1, thread_name_prefix="freezer-gather")
        if sampler.device.type == "cuda":
            # in the order of the stream, so before the next update; the host's copy comes when the device gets there
            block = torch.empty(len(names), sampler.samples, device=sampler.device)
            sampler.gather(names, block)
            host = torch.empty(block.shape, pin_memory=True, device="cpu")
            host.copy_(block, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(sampler.device))
            return self._gatherer.submit(_fetch, names, host, event)
        if sampler.device.type == "cpu" and self._watch(sampler.parameters(names)):
            assert self._watched is not None
            self._gathering = self._gatherer.submit(_gather, sampler, names, *self._watched)
            return self._gathering
        now: Future[dict[str, bytes] | None] = Future()
        now.set_result(sampler.sample(names))
        return now

    def _watch(self, parameters: list[nn.Parameter]) -> bool:
        """Note the versions of the weights until the next optimizer step; whether they may be read until then."""
        if self._watched is not None:  # no step of this optimizer since the last snapshot: something else may write
            self._trusted = False
        if self._hook is None:
            self._hook = before_step(self._optimizer, self._before_step)
            if self._hook is None:
                return False
        self._watched = (parameters, _versions(parameters))
        return self._trusted

    def _before_step(self, *_: Any) -> None:
        """The optimizer's pre-hook: from here on weights change."""
        if self._watched is None:
            return
        (parameters, versions), self._watched = self._watched, None
        self._settle()
        alone = _versions(parameters) == versions
        self._betrayed |= self._trusted and not alone
        self._trusted = alone and not self._betrayed

    def _settle(self) -> None:
        """Wait until the weights have been read."""
        gathering, self._gathering = self._gathering, None
        if gathering is None:
            return
        if not gathering.done():
            with Stopwatch() as watch:
                wait([gathering])
            self._spend("snapshot_wait", watch.seconds)
        if gathering.result() is None:
            self._trusted, self._betrayed = False, True
            self._counts = {unit: count for unit, count in self._counts_before.items() if unit in self._counts}
            warnings.warn(
                "weights were written between freezer.step() and the next optimizer step, while a snapshot of them was "
                "taken: it is left out, and later ones are taken at once, which costs the step a little time",
                RuntimeWarning,
                stacklevel=3,
            )

    def _bound(self) -> None:
        while self._backlog and (self._backlog[0].done() or len(self._backlog) >= BACKLOG):
            self._backlog.popleft().result()

    def check(self) -> None:
        """Raise what failed in the threads, if anything did."""
        if self._failed is not None:
            self._told = True
            raise self._failed

    def submit(self, fn: Callable[[], T]) -> Future[T]:
        """Run ``fn`` in the worker, after all snapshots recorded so far are in the windows."""
        self.check()
        return self._start().submit(fn)

    def drain(self) -> None:
        """Wait until every snapshot is in the windows and all that was submitted has run.

        Call it before anything but the optimizer writes weights.
        """
        self._settle()
        if self._worker is not None:
            self._worker.submit(int).result()
        self.check()

    def filled(self) -> dict[str, int]:
        """Snapshots in the window of each recorded unit, those under way included. Does not wait."""
        return {name: count for name, (_, count) in self._counts.items()}

    def forget(self, names: Iterable[str]) -> None:
        """Begin these units' windows anew: what lies before a thaw tells nothing of what comes after it."""
        names = list(names)
        for name in names:
            self._counts.pop(name, None)
        self.submit(lambda: self._drop(names))

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._windows.drop(name)

    def dump(self) -> dict[str, list[tuple[int, bytes]]]:
        """All windows, for a checkpoint. Waits."""
        self.drain()
        return dump(self._windows)

    def restore(self, dumped: Mapping[str, Sequence[tuple[int, bytes]]]) -> None:
        """Put exactly what :meth:`dump` gave into the windows. What was under way before is dropped, errors too."""
        pools, self._gathering, self._watched = (self._gatherer, self._worker), None, None
        for pool in pools:
            if pool is not None:
                pool.submit(int).result()
        self._backlog.clear()
        self._failed, self._trusted = None, False
        restore(self._windows, dumped)
        self._counts = {u: (ring[-1][0], min(self._capacity, len(ring))) for u, ring in dumped.items() if ring}

    def close(self) -> None:
        """Let the threads finish what they were given, and end them. Raises an error that nobody was told of."""
        if self._hook is not None:
            self._hook.remove()
        for pool in (self._gatherer, self._worker):
            if pool is not None:
                pool.shutdown(wait=True)
        self._gatherer = self._worker = self._hook = self._gathering = self._watched = None
        self._trusted = False
        self._backlog.clear()
        if not self._told:
            self.check()

    # -- in the worker -----------------------------------------------------------------------------------------------

    def windows(self, units: Iterable[str]) -> dict[str, tuple[Snapshot, ...]]:
        """Window of each unit, oldest snapshot first. In a submitted function: the snapshots taken before it was
        submitted. On another thread: all that were recorded, waited for.
        """
        names = list(units)
        if threading.get_ident() != self._worker_id:
            self.drain()
        self.check()
        return {name: tuple(self._windows.read(name)) for name in names}

    def _start(self) -> ThreadPoolExecutor:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="freezer-worker", initializer=self._note_worker)
        return self._worker

    def _note_worker(self) -> None:
        self._worker_id = threading.get_ident()

    def _append(self, step: int, gathered: Future[dict[str, bytes] | None]) -> None:
        if self._failed is not None:  # a window with a hole is worth nothing
            return
        try:
            rows = gathered.result()
            if rows is not None:
                self._windows.append(step, rows)
        except BaseException as error:
            self._failed = error


def _gather(
    sampler: Sampler, names: list[str], parameters: list[nn.Parameter], versions: list[int]
) -> dict[str, bytes] | None:
    """``None`` where something wrote the weights meanwhile."""
    block = torch.empty(len(names), sampler.samples, device="cpu")
    sampler.gather(names, block)
    return rows_of(names, block) if _versions(parameters) == versions else None


def _fetch(names: list[str], host: Tensor, event: torch.cuda.Event) -> dict[str, bytes] | None:
    event.synchronize()
    return rows_of(names, host)


def _versions(parameters: list[nn.Parameter]) -> list[int]:
    return [p._version for p in parameters]
