"""What rank 0 tells the outside: progress, events, freeze status, decisions, and what it hears: freeze commands. In the
background; never stops training.

Progress and freeze status are replaced by newer ones while the store is away; events and decisions wait in order in a
bounded buffer, and the oldest are dropped (and counted) when it is full. A refused fence means that another attempt
owns the job: ``stale`` is set, and the loop stops at once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.jobs.errors import JobNotFound, StaleFence, StoreUnavailable
from workers.jobs.ports import JobStore
from workers.jobs.record import Command, Event, Progress
from workers.jobs.state import report_progress

_log = logging.getLogger(__name__)
_Write = Callable[[JobStore], object]


class Reporter:
    """Without a store (``None``) only the metrics file is written."""

    def __init__(
        self,
        store: JobStore | None,
        *,
        job_id: str,
        fence: int,
        metrics: Path,
        every_seconds: float = 1.0,
        buffer: int = 10_000,
    ) -> None:
        self.stale = threading.Event()
        self.dropped = 0
        self._store, self._job_id, self._fence, self._every = store, job_id, fence, every_seconds
        self._writes: deque[_Write] = deque()
        self._buffer = buffer
        self._progress: Progress | None = None
        self._freeze: dict[str, Any] | None = None
        self._commands: list[Command] = []
        self._heard = 0
        self._refusal: str | None = None  # said once, not at every beat
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._closing = False
        metrics.parent.mkdir(parents=True, exist_ok=True)
        self._metrics = metrics.open("a", encoding="utf-8", buffering=1)
        self._thread: threading.Thread | None = None
        if store is not None:
            self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
            self._thread.start()

    def progress(self, progress: Progress) -> None:
        """The newest progress; sent with the next beat."""
        with self._lock:
            self._progress = progress

    def freeze_status(self, status: dict[str, Any]) -> None:
        """The newest freeze status document; sent with the next beat."""
        with self._lock:
            self._freeze = status

    def event(self, kind: str, **data: Any) -> None:
        """Append to the job's event stream, soon."""
        at = time.time()
        self._append(
            lambda store: store.append_event(self._job_id, Event(type=kind, at=at, data=data), fence=self._fence)
        )

    def decision(self, decision: dict[str, Any]) -> None:
        """Append to the decision stream, soon."""
        self._append(lambda store: store.append_decision(self._job_id, self._fence, decision))

    def supersede(self, after_step: int) -> None:
        """Mark the decisions later than the checkpoint that training goes on from."""
        self._append(lambda store: store.supersede_decisions(self._job_id, self._fence, after_step=after_step))

    def settle(self, seq: int, step: int, error: str | None) -> None:
        """Write down what became of a command, soon."""
        self._append(lambda store: store.settle_command(self._job_id, self._fence, seq, step=step, error=error))

    def commands(self, after: int) -> list[Command]:
        """Commands with ``seq`` > after, as far as they were heard of, in order. Asks nobody."""
        with self._lock:
            self._commands = [command for command in self._commands if command.seq > after]
            return list(self._commands)

    def await_commands(self, timeout: float) -> None:
        """Wait until the store was asked for commands once, answered or not."""
        if self._thread is not None:
            self._wake.set()
            self._asked.wait(timeout)

    def metric(self, step: int, **values: float | int | None) -> None:
        """One line of metrics.jsonl."""
        line = {"step": step, "at": round(time.time(), 3), **{k: v for k, v in values.items() if v is not None}}
        try:
            self._metrics.write(json.dumps(line) + "\n")
        except OSError as error:
            _log.warning("metrics line lost: %s", error)

    def flush(self, timeout: float) -> bool:
        """Wait until everything said so far is in the store; ``False`` when that took too long."""
        if self._thread is None:
            return True
        self._wake.set()
        with self._idle:
            return self._idle.wait_for(lambda: self.stale.is_set() or not self._pending(), timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Flush within ``timeout`` and end the thread. Raises nothing: what the disk does not take is lost."""
        if self._thread is not None:
            if not self.flush(timeout):
                _log.warning("the store was away at the end: %d reports are lost", len(self._writes))
            self._closing = True
            self._wake.set()
            self._thread.join(timeout)
        try:
            self._metrics.close()
        except OSError as error:  # lines that could not be written wait in its buffer
            _log.warning("metrics lines lost at the end: %s", error)

    def _append(self, write: _Write) -> None:
        if self._store is None:
            return
        with self._lock:
            if len(self._writes) >= self._buffer:
                self._writes.popleft()
                self.dropped += 1
            self._writes.append(write)
        self._wake.set()

    def _pending(self) -> bool:
        return bool(self._writes) or self._progress is not None or self._freeze is not None

    def _run(self) -> None:
        while not self._closing and not self.stale.is_set():
            self._wake.wait(self._every)
            self._wake.clear()
            try:
                self._send_all()
                self._ask()
            except StoreUnavailable as error:
                _log.warning("the store is away, training goes on: %s", error)
                time.sleep(self._every)
            except (StaleFence, JobNotFound) as error:
                _log.error("this attempt does not own the job any more: %s", error)
                self.stale.set()
            except Exception as error:  # such as a command that does not validate: reports must go on
                if str(error) != self._refusal:
                    _log.exception("the store cannot be asked for commands")
                self._refusal = str(error)
            else:
                self._refusal = None
            self._asked.set()
            with self._idle:
                self._idle.notify_all()

    def _send_all(self) -> None:
        """Progress first: the first one turns the job to ``running``, before any event of training."""
        progress = self._progress
        if progress is not None:
            chosen = progress
            self._send(
                lambda store: store.update(
                    self._job_id, lambda record, now: report_progress(record, now, fence=self._fence, progress=chosen)
                )
            )
            with self._lock:
                self._progress = None if self._progress is progress else self._progress
        while self._writes:
            write = self._writes[0]
            self._send(write)
            with self._lock:
                if self._writes and self._writes[0] is write:  # else it was dropped meanwhile
                    self._writes.popleft()
        freeze = self._freeze
        if freeze is not None:
            document = freeze
            self._send(lambda store: store.put_freeze(self._job_id, self._fence, document))
            with self._lock:
                self._freeze = None if self._freeze is freeze else self._freeze

    def _ask(self) -> None:
        """Hear of new commands; ``_heard`` is used by this thread alone."""
        assert self._store is not None
        while fresh := self._store.commands(self._job_id, after=self._heard):
            self._heard = fresh[-1].seq
            with self._lock:
                self._commands += fresh

    def _send(self, write: _Write) -> None:
        """Raises StoreUnavailable, StaleFence, JobNotFound; anything else is logged and the report counts as sent."""
        assert self._store is not None
        try:
            write(self._store)
        except (StoreUnavailable, StaleFence, JobNotFound):
            raise
        except Exception:
            _log.exception("the store refuses a report, which is dropped")
