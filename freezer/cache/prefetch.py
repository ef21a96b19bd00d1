"""One thread that assembles the next batch while the present one trains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_AHEAD = 4


class Prefetcher:
    """Runs what it is given in one thread, under a token; at most four tokens wait, the oldest goes first."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: OrderedDict[Hashable, Future[Any]] = OrderedDict()

    def request(self, token: Hashable, work: Callable[[], Any]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="forward-cache")
        self._waiting[token] = self._pool.submit(work)
        while len(self._waiting) > _AHEAD:
            self._waiting.popitem(last=False)[1].cancel()

    def take(self, token: Hashable) -> Any:
        """What was made under ``token``, waiting for it if need be; ``None`` where nothing was asked for."""
        future = self._waiting.pop(token, None)
        return future.result() if future is not None else None

    def drop(self) -> None:
        """Forget all: the store has changed."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()

    def close(self) -> None:
        self.drop()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
