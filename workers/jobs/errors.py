"""Errors of the job kernel. The API turns them into HTTP once, at its edge; the kernel knows no status codes.

::

    JobError
    ├── JobNotFound
    ├── RecordUnreadable      the record is no record, or would not be one once it is written
    ├── IllegalTransition     the job's status does not allow this
    ├── StaleFence            the writer's claim has been taken over; it must stop
    ├── IdempotencyConflict   same key, another body
    ├── SpecInvalid           the spec cannot work; carries pointers
    └── StoreUnavailable      the store does not answer; nothing was written, or the write is safe to repeat
"""

from __future__ import annotations

from dataclasses import dataclass


class JobError(Exception):
    """Base of all kernel errors."""


class JobNotFound(JobError):
    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}")
        self.job_id = job_id


class RecordUnreadable(JobError):
    """The text that the store holds for the job, or would hold, cannot be read as a record. Nothing was written."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(f"the record of job {job_id!r} cannot be read: {why}")
        self.job_id, self.why = job_id, why


class IllegalTransition(JobError):
    def __init__(self, job_id: str, status: str, action: str, advice: str = "") -> None:
        super().__init__(f"cannot {action} job {job_id}: it is {status}" + (f"; {advice}" if advice else ""))
        self.job_id, self.status, self.action = job_id, status, action


class StaleFence(JobError):
    """The fence of the write is not the record's: another attempt owns the job, or it has ended."""

    def __init__(self, job_id: str, fence: int, current: int) -> None:
        super().__init__(f"job {job_id}: fence {fence} is stale, the record holds {current}")
        self.job_id, self.fence, self.current = job_id, fence, current


class IdempotencyConflict(JobError):
    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} was used with another body")
        self.key = key


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a spec: ``pointer`` is a JSON pointer into it, ``detail`` the sentence that helps."""

    pointer: str
    detail: str
    code: str = "INVALID"


class SpecInvalid(JobError):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.detail}" for p in problems))
        self.problems = problems


def no_start(job_id: str) -> SpecInvalid:
    """The job whose weights a new one would start from is not there."""
    return SpecInvalid([Problem("/model/init_from", f"there is no job {job_id!r}", "NOT_FOUND")])


class StoreUnavailable(JobError):
    """The store cannot be reached."""
