"""Clears up behind jobs; part of the reaper: deletes those that ended long ago, where the operator asks for it
(``SMARTFRZ_KEEP_DAYS``), and finishes what was left half done, files of deleted jobs and checkpoints of succeeded ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from workers.jobs.errors import IllegalTransition, JobNotFound, RecordUnreadable
from workers.jobs.layout import JobFiles
from workers.jobs.ports import JobStore
from workers.jobs.record import TERMINAL, JobRecord
from workers.removal import remove_checkpoints, remove_files
from workers.settings import Settings

logger = logging.getLogger(__name__)

LOOKED_AT, DELETED = 100, 10
"""Bounds of one round: records read or folders looked into, jobs whose files are removed. Those may be large, and
leases wait meanwhile."""

SWEEP_ROUNDS = 30
"""Every so many rounds the files of deleted jobs are tried again, for ranks may still have written there, and a look
through the folders of all jobs begins."""

DAY = 24 * 3600.0


def too_old(record: JobRecord, now: float, keep_days: float) -> bool:
    """Whether the job ended at least so many days ago."""
    return record.terminal and record.ended_at is not None and now - record.ended_at >= keep_days * DAY


class Retention:
    """Goes through the ended jobs, and through the folders of all, oldest first, a bounded piece in each round.

    Left alone: what has not ended, the start of a job that has not, and records that cannot be read.
    """

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._after: str | None = None
        self._folders: list[str] = []
        self._rounds = 0

    def round(self, now: float, may_go_on: Callable[[], bool]) -> None:
        """One round's work at the store's time ``now``. Raises StoreUnavailable.

        Args:
            may_go_on: asked before each deletion; ends the round when it says no.
        """
        if self._rounds % SWEEP_ROUNDS == 0:
            self._sweep()
            self._folders = self._folders or self._all_folders()
        self._rounds += 1
        self._tidy(may_go_on)
        if self._settings.keep_days > 0:
            self._delete_old(now, may_go_on)

    def _delete_old(self, now: float, may_go_on: Callable[[], bool]) -> None:
        keep, deleted = self._settings.keep_days, 0
        page, more = self._store.list(limit=LOOKED_AT, after=self._after, newest_first=False, status=TERMINAL)
        for record in page:
            if too_old(record, now, keep):
                if deleted == DELETED or not may_go_on():
                    return
                self._delete(record, now)
                deleted += 1
            self._after = record.id
        if not more or now - page[-1].created_at < keep * DAY:  # what was made later cannot have ended earlier
            self._after = None

    def _delete(self, record: JobRecord, now: float) -> None:
        assert record.ended_at is not None
        try:
            self._store.delete(record.id)
        except JobNotFound:
            return
        except IllegalTransition as error:
            logger.debug("kept: %s", error)
            return
        days = (now - record.ended_at) / DAY
        logger.info(
            "job %s (%s, %s) ended %.1f days ago: deleted (SMARTFRZ_KEEP_DAYS=%g)",
            record.id,
            record.spec.name,
            record.status,
            days,
            self._settings.keep_days,
        )
        self._remove(record.id)

    def _all_folders(self) -> list[str]:
        """Ids of jobs that have a folder, the oldest last."""
        try:
            return sorted(os.listdir(self._settings.home / "jobs"), reverse=True)
        except OSError:  # no job has run yet; what else ails the disk, workers tell
            return []

    def _tidy(self, may_go_on: Callable[[], bool]) -> None:
        """Remove the checkpoints of jobs that have succeeded, where their runner could not: it died first, or the store
        was away. The disk is asked first, for most jobs have none left."""
        removed = 0
        for _ in range(min(LOOKED_AT, len(self._folders))):
            files = JobFiles(self._settings.home, self._folders[-1])
            if any(attempt.checkpoints.exists() for attempt in files.attempts()) and self._succeeded(files.job_id):
                if removed == DELETED or not may_go_on():
                    return
                remove_checkpoints(files)
                removed += 1
            self._folders.pop()

    def _succeeded(self, job_id: str) -> bool:
        try:
            return self._store.get(job_id).status == "succeeded"
        except (JobNotFound, RecordUnreadable):
            return False

    def _sweep(self) -> None:
        for job_id in self._store.deleted():
            self._remove(job_id)

    def _remove(self, job_id: str) -> None:
        if remove_files(JobFiles(self._settings.home, job_id)):
            self._store.files_removed(job_id)
