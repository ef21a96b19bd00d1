"""Children of the supervisor, and the thread that starts them again when they die."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from workers._spawn import last_lines, spawn, terminate
from workers.embedded import EmbeddedError, EmbeddedServer

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
MANY_DEATHS = 8
"""So many quick deaths in a row are a trouble of its own, and told as one: by then the pauses are the longest."""
TOLD_EVERY = 20
"""Of the later deaths only so many-th is told: every ten minutes, where each comes at once."""
QUICK_SECONDS = 60.0
LOOK_SECONDS = 0.1


class Child(Protocol):
    """Something that runs, may die, and can be started again under the same name."""

    @property
    def name(self) -> str: ...

    def start(self) -> None:
        """Start, or start again."""

    def alive(self) -> bool: ...

    def order_stop(self) -> None:
        """Ask it to end; returns at once."""

    def stop(self) -> None:
        """End it, by force after its time. Safe to repeat."""

    def story(self) -> str:
        """How it ended, for an error message."""


@dataclass
class ProcessChild:
    """A command. ``death_signal`` is what it gets when the supervisor is gone without a word."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    death_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    asked: bool = field(default=False, init=False)

    def start(self) -> None:
        self.process = spawn(self.command, log=self.log, env=self.env, death_signal=self.death_signal)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def order_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.asked = True  # once is enough: a second TERM may mean more

    def stop(self) -> None:
        if self.process is not None and not terminate(self.process, self.stop_seconds, asked=self.asked):
            logger.warning("%s did not end within %.0f s and was killed", self.name, self.stop_seconds)

    def story(self) -> str:
        code = None if self.process is None else self.process.returncode
        return f"{self.name} ended with exit code {code}; the end of {self.log}:\n{last_lines(self.log)}"


@dataclass
class StoreChild:
    """An embedded server. It keeps its data and its URL when it is started again."""

    name: str
    server: EmbeddedServer

    def start(self) -> None:
        if self.server.process is None:
            self.server.start()
        else:
            self.server.revive()

    def alive(self) -> bool:
        return self.server.process is not None and self.server.process.poll() is None

    def order_stop(self) -> None:
        """Stores end last, each in its turn."""

    def stop(self) -> None:
        self.server.stop()

    def story(self) -> str:
        return f"{self.name} ended; the end of {self.server.log}:\n{last_lines(self.server.log)}"


def pause_before(quick_deaths: int) -> float:
    """Seconds to wait before the next start after so many quick deaths in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(10, max(0, quick_deaths - 1)))


def tells(quick_deaths: int) -> bool:
    """Whether this one of many quick deaths is told, with the child's last lines."""
    return quick_deaths >= MANY_DEATHS and (quick_deaths - MANY_DEATHS) % TOLD_EVERY == 0


class Keeper:
    """Watches children from a thread and starts again what dies, with growing pauses, for as long as it takes.

    What stands in a child's way (a full disk, a port that somebody else has) may go, and until then no other is stopped
    for it. Only what has been up once is given to it. Children that this thread started hang on it (see
    :func:`workers.proctree.die_with_parent`): stop them between :meth:`hold` and :meth:`close`.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._holding = False
        self._end = threading.Event()
        self._deaths: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def keep(self, child: Child) -> None:
        """Watch a running child."""
        with self._lock:
            self._started[child.name] = time.monotonic()
            self._children.append(child)

    def failing(self) -> Sequence[str]:
        """Children that have died many times in a row, and have not run long enough since to be trusted again."""
        now = time.monotonic()
        return [
            child.name
            for child in tuple(self._children)
            if self._deaths.get(child.name, 0) >= MANY_DEATHS
            and not (child.alive() and now - self._started[child.name] >= QUICK_SECONDS)
        ]

    def hold(self) -> None:
        """Start nothing any more; when this returns, no start is under way."""
        with self._lock:
            self._holding = True

    def close(self) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            with self._lock:
                for child in self._children:
                    if not self._holding and not child.alive():
                        self._revive(child, time.monotonic())

    def _revive(self, child: Child, now: float) -> None:
        name = child.name
        if name not in self._due:  # its death is news
            quick = now - self._started[name] < QUICK_SECONDS
            deaths = self._deaths[name] = self._deaths.get(name, 0) + 1 if quick else 1
            pause = pause_before(deaths)
            if tells(deaths):
                logger.error(
                    "%s died %d times in a row soon after its start. It is tried again every %.0f s until it stays; "
                    "all else goes on meanwhile. %s",
                    name,
                    deaths,
                    pause,
                    child.story(),
                )
            elif deaths < MANY_DEATHS:
                logger.warning("%s died, it is started again in %.1f s", name, pause)
            self._due[name] = now + pause
        if now >= self._due[name]:
            del self._due[name]
            self._started[name] = now
            self.restarts += 1
            try:
                child.start()
            except Exception as error:  # whatever it was: this thread must live on for the others
                known = isinstance(error, (EmbeddedError, OSError))
                if not known or self._deaths[name] < MANY_DEATHS:  # later ones are told as deaths, now and then
                    logger.error("%s did not start: %s", name, error, exc_info=not known)
