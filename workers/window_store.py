"""Windows of weight snapshots on Redis, for everybody outside the training process.

Training never waits for this store: :class:`WriteBehindWindows` keeps the ring in the process, and mirrors it from a
thread that may fall behind, lose snapshots, or find no server at all.

Keys, after the prefix::

    windows:<job id>           set of unit names
    window:<job id>:<unit>     list of encoded snapshots (see freezer.windows), newest first
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from freezer.windows import MemoryWindows, Snapshot, WindowStore, decode, encode
from workers._redis import AsyncDriver, Batch, Call, Driver, Op
from workers.jobs.errors import StoreUnavailable

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
"""Between two tries of a mirror that fails: a copy of the whole ring each time would do a full server no good."""

_log = logging.getLogger(__name__)


class Mirror(WindowStore, Protocol):
    """A window store elsewhere, which forgets what nobody renews."""

    def renew(self) -> None:
        """Keep everything that is there for its whole time from now on."""

    def close(self) -> None:
        """Let go of the connection; the windows stay."""


class WindowOps:
    """Operations on the windows of one job."""

    def __init__(self, prefix: str, job_id: str) -> None:
        self._set, self._prefix = f"{prefix}windows:{job_id}", f"{prefix}window:{job_id}:"

    def _key(self, unit: str) -> str:
        return self._prefix + unit

    def append(self, values: Mapping[str, bytes], replaced: Collection[str], capacity: int, ttl: float) -> Op[None]:
        """One encoded snapshot of each unit, in one round trip. It takes the newest one's place for ``replaced``."""
        millis, calls = max(1, round(ttl * 1000)), []
        for unit, data in values.items():
            key = self._key(unit)
            calls += [Call(("LPOP", key))] if unit in replaced else []
            calls += [Call(("LPUSH", key, data)), Call(("LTRIM", key, 0, capacity - 1)), Call(("PEXPIRE", key, millis))]
        if calls:
            index = (Call(("SADD", self._set, *values)), Call(("PEXPIRE", self._set, millis)))
            yield Batch((*calls, *index), atomic=True)

    def newest(self, units: Sequence[str]) -> Op[dict[str, int]]:
        """Step of the newest snapshot of each unit that has one."""
        if not units:
            return {}
        replies = yield Batch(tuple(Call(("LINDEX", self._key(unit), 0)) for unit in units))
        return {unit: decode(data).step for unit, data in zip(units, replies, strict=True) if data is not None}

    def read(self, unit: str) -> Op[list[Snapshot]]:
        """Oldest first. A write whose reply was lost is sent again: of two snapshots of one step the newest counts."""
        snapshots = map(decode, reversed((yield Call(("LRANGE", self._key(unit), 0, -1)))))
        return list({snapshot.step: snapshot for snapshot in snapshots}.values())

    def units(self) -> Op[list[str]]:
        return sorted(name.decode() for name in (yield Call(("SMEMBERS", self._set))))

    def renew(self, ttl: float) -> Op[None]:
        millis, units = max(1, round(ttl * 1000)), (yield from self.units())
        yield Batch(tuple(Call(("PEXPIRE", key, millis)) for key in (self._set, *map(self._key, units))))

    def drop(self, units: Sequence[str]) -> Op[None]:
        if units:
            yield Batch((Call(("DEL", *map(self._key, units))), Call(("SREM", self._set, *units))))


class RedisWindows:
    """:class:`freezer.windows.WindowStore` on Redis. Every method may raise StoreUnavailable. One writer at a time.

    Args:
        url, prefix: as for :class:`workers.redis_store.RedisJobStore`.
        job_id: whose windows.
        capacity: snapshots kept of each unit.
        ttl_seconds: so long after its last snapshot, or after :meth:`renew`, the window of a unit is forgotten.
    """

    def __init__(self, url: str, prefix: str, job_id: str, capacity: int, ttl_seconds: float) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._capacity, self._ttl = capacity, ttl_seconds
        self._driver, self._ops = Driver(url, decode=False), WindowOps(prefix, job_id)
        self._newest: dict[str, int] = {}

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        unknown = [unit for unit in values if unit not in self._newest]
        self._newest |= self._driver.run(self._ops.newest(unknown))
        for unit in values:
            if (last := self._newest.get(unit, step)) > step:
                raise ValueError(f"snapshot of {unit!r} at step {step} after one at step {last}")
        replaced = {unit for unit in values if self._newest.get(unit) == step}
        encoded = {unit: encode(Snapshot(step, bytes(data))) for unit, data in values.items()}
        try:
            self._driver.run(self._ops.append(encoded, replaced, self._capacity, self._ttl))
        except StoreUnavailable:
            self._newest.clear()  # it may have been written or not: look again before the next one
            raise
        self._newest |= dict.fromkeys(values, step)

    def read(self, unit: str) -> list[Snapshot]:
        return self._driver.run(self._ops.read(unit))

    def units(self) -> list[str]:
        return self._driver.run(self._ops.units())

    def drop(self, unit: str) -> None:
        self._newest.pop(unit, None)
        self._driver.run(self._ops.drop([unit]))

    def clear(self) -> None:
        self._newest.clear()
        self._driver.run(self._ops.drop(self.units()))

    def renew(self) -> None:
        self._driver.run(self._ops.renew(self._ttl))

    def close(self) -> None:
        self._driver.close()


class AsyncWindowReader:
    """Reads windows in an event loop. Every method may raise StoreUnavailable."""

    def __init__(self, url: str, prefix: str = "smartfrz:") -> None:
        self._driver, self._prefix = AsyncDriver(url, decode=False), prefix

    async def read(self, job_id: str, unit: str) -> Sequence[Snapshot]:
        """The unit's window, oldest first; empty when there is none (any more)."""
        return await self._driver.run(WindowOps(self._prefix, job_id).read(unit))

    async def units(self, job_id: str) -> Sequence[str]:
        """Names of the units that were recorded, sorted."""
        return await self._driver.run(WindowOps(self._prefix, job_id).units())

    async def close(self) -> None:
        await self._driver.close()


class WriteBehindWindows:
    """A local ring that is complete at once, and a mirror elsewhere that follows when it can.

    Nothing here waits for the mirror or raises what it raises. What does not reach it is counted in ``dropped``: the
    oldest writes when more than ``bound`` wait, and each write that the mirror refuses. A new mirror, the first one or
    one after a failure, starts as a copy of the whole ring. After a failure it is made after a pause, which doubles up
    to ``LONGEST_PAUSE_SECONDS``, or when somebody waits for it.

    Args:
        local: answers every read.
        remote_factory: makes the mirror, in the thread, when it is first needed; called again after a failure.
        bound: writes that may wait.
        renew_seconds: how often the mirror is renewed, written to or not.
    """

    def __init__(
        self,
        local: MemoryWindows,
        remote_factory: Callable[[], Mirror],
        *,
        bound: int = 256,
        renew_seconds: float = math.inf,
    ) -> None:
        self.dropped = 0
        self._local, self._make, self._bound, self._renew_seconds = local, remote_factory, bound, renew_seconds
        self._waiting: deque[Callable[[Mirror], None]] = deque()
        self._news = threading.Condition()
        self._busy = self._hurried = self._closing = False
        self._thread = threading.Thread(target=self._mirror, name="window-mirror", daemon=True)
        self._thread.start()

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        copy = {unit: bytes(data) for unit, data in values.items()}
        self._write(lambda windows: windows.append(step, copy))

    def read(self, unit: str) -> Sequence[Snapshot]:
        return self._local.read(unit)

    def units(self) -> Sequence[str]:
        return self._local.units()

    def drop(self, unit: str) -> None:
        self._write(lambda windows: windows.drop(unit))

    def clear(self) -> None:
        self._write(lambda windows: windows.clear())

    def flush(self, timeout: float) -> bool:
        """Wait until the mirror has caught up; False when it has not by then."""
        with self._news:
            self._hurried = True
            self._news.notify_all()
            try:
                return self._news.wait_for(lambda: not self._waiting and not self._busy, timeout)
            finally:
                self._hurried = False

    def close(self, timeout: float = 5.0) -> None:
        """Give the mirror so many seconds to catch up, then end."""
        self.flush(timeout)
        with self._news:
            self._closing = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._news.notify_all()
        self._thread.join(timeout)

    def _write(self, write: Callable[[WindowStore], None]) -> None:
        with self._news:
            write(self._local)
            if self._closing:
                return
            if len(self._waiting) >= self._bound:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(write)
            self._news.notify_all()

    def _mirror(self) -> None:
        remote: Mirror | None = None
        failures, resume_at, renew_at = 0, 0.0, math.inf
        while (do := self._next(resume_at, renew_at)) is not None:
            try:
                if remote is None:
                    remote = self._make()
                    self._copy(remote)
                else:
                    do(remote)
                    failures = 0  # not after the copy: a full server may have room for that alone
                if math.isinf(renew_at) or do is _renew:
                    renew_at = time.monotonic() + self._renew_seconds
            except Exception as error:  # whatever the mirror does, training goes on
                with self._news:
                    self.dropped += do is not _renew
                failures += 1
                if failures == 1:
                    _log.warning("trajectories are not shown until their store takes them again: %s", error)
                _shut(remote)
                remote, renew_at = None, math.inf
                resume_at = time.monotonic() + pause_after(failures)
        _shut(remote)

    def _next(self, resume_at: float, renew_at: float) -> Callable[[Mirror], None] | None:
        """Wait for what is to be done: a write, which nobody who waits for the mirror lets wait until ``resume_at``, or
        from ``renew_at`` on a renewal. ``None``: end."""
        with self._news:
            self._busy = False
            self._news.notify_all()
            while not self._closing:
                now = time.monotonic()
                if now >= renew_at:
                    self._busy = True
                    return _renew
                if self._waiting and (self._hurried or now >= resume_at):
                    self._busy = True
                    return self._waiting.popleft()
                due = min(renew_at, resume_at if self._waiting else math.inf)
                self._news.wait(None if math.isinf(due) else due - now)
            return None

    def _copy(self, remote: Mirror) -> None:
        steps: dict[int, dict[str, bytes]] = defaultdict(dict)
        with self._news:
            self._waiting.clear()  # the ring holds what they would write
            for unit in self._local.units():
                for snapshot in self._local.read(unit):
                    steps[snapshot.step][unit] = snapshot.values
        remote.clear()
        for step in sorted(steps):
            remote.append(step, steps[step])


def pause_after(failures: int) -> float:
    """Seconds until the next try after so many failures in a row."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_SECONDS)


def _renew(remote: Mirror) -> None:
    remote.renew()


def _shut(remote: Mirror | None) -> None:
    if remote is not None:
        with contextlib.suppress(Exception):
            remote.close()
