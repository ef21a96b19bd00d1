"""The whole queue, however long it is, a page in memory at a time: for a claim, or to say why jobs wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workers.jobs.ports import JobStore
from workers.jobs.record import JobRecord

PAGE = 200


def queue_pages(store: JobStore) -> Iterator[Sequence[JobRecord]]:
    """Every waiting job, first to run first, at most ``PAGE`` of them at once. Raises StoreUnavailable."""
    after: JobRecord | None = None
    while page := store.queued(PAGE, after=after):
        yield page
        if len(page) < PAGE:
            return
        after = page[-1]
