"""Errors that end a run for a known reason.

::

    TrainingError                 carries the reason that the job's status will show
    ├── ConfigInvalid             config_invalid: the spec cannot work with this model or these data
    ├── DatasetInvalid            dataset_invalid: data missing, damaged, or not what the spec says
    └── CodeError                 code_error: the user's function raised, or returned something else than promised
"""

from __future__ import annotations

from workers.jobs.record import Reason


class TrainingError(Exception):
    """Ends the run. ``reason`` goes into the job's status, the message is the sentence that helps."""

    reason: Reason = "code_error"

    def __init__(self, message: str, *, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class ConfigInvalid(TrainingError):
    """The spec cannot work with this model or these data."""

    reason: Reason = "config_invalid"


class DatasetInvalid(TrainingError):
    """Data missing, damaged, or not what the spec says."""

    reason: Reason = "dataset_invalid"


class CodeError(TrainingError):
    """The user's function raised, or returned something else than promised."""

    reason: Reason = "code_error"
