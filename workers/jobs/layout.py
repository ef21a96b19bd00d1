"""Files of a job under ``SMARTFRZ_HOME``, and the three documents that runner and trainer exchange through them.

::

    jobs/<job id>/attempt-<fence>/     a later number where there is such a folder already (see JobFiles.fresh)
        spec.json          AttemptSpec, written by the runner before the ranks start
        control.json       Control, written by the runner; rank 0 polls it between steps
        result.json        Result, written by rank 0 (or by the first rank that fails); the truth about the outcome
        logs/rank<N>.log   stdout and stderr of each rank
        metrics.jsonl      one JSON object a line: {"step", "at", "name": value, ...}
        checkpoints/step-<NNNNNNNN>/   the newest two of all attempts; none once the job has succeeded
        best.safetensors   weights of the best evaluation so far, with early stopping
        commands.jsonl     freeze commands and the steps at which they were applied; what a resume replays
        cache/rank<N>/     forward cache and moments of frozen units; gone when the attempt ends
        artifacts/         model.safetensors, report.json, ...
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workers.jobs.record import Reason
from workers.jobs.spec import JobSpec


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Paths of one job."""

    home: Path
    job_id: str

    @property
    def root(self) -> Path:
        return self.home / "jobs" / self.job_id

    def attempt(self, fence: int) -> AttemptFiles:
        return AttemptFiles(self.root / f"attempt-{fence:04d}")

    def fresh(self, fence: int) -> AttemptFiles:
        """The place of an attempt that begins: of its fence, or after all others where the disk knows of this one or
        later ones (the store came from a backup, say). An old result would be believed, an old order obeyed, and the
        artifacts of a later number taken for the newest."""
        numbers = [attempt.root.name.removeprefix("attempt-") for attempt in self.attempts()]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self.attempt(max(fence, last + 1))

    def attempts(self) -> list[AttemptFiles]:
        """Every attempt that left files, oldest first."""
        return [AttemptFiles(path) for path in sorted(self.root.glob("attempt-*"))]

    @property
    def lock(self) -> Path:
        """Whoever holds its flock owns the ranks of this job."""
        return self.root / ".lock"

    @property
    def weights(self) -> Path | None:
        """The trained weights, of the newest attempt that left any."""
        return next((a.weights for a in reversed(self.attempts()) if a.weights.is_file()), None)


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """Paths of one attempt."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def control(self) -> Path:
        return self.root / "control.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def commands(self) -> Path:
        return self.root / "commands.jsonl"

    def cache(self, rank: int) -> Path:
        return self.caches / f"rank{rank}"

    @property
    def caches(self) -> Path:
        return self.root / "cache"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.root / "best.safetensors"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def weights(self) -> Path:
        return self.artifacts / "model.safetensors"

    def log(self, rank: int) -> Path:
        return self.logs / f"rank{rank}.log"


class Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class AttemptSpec(Document):
    """What the ranks need to know. The URLs of the stores come by environment, since they carry passwords."""

    job_id: str
    fence: int
    attempt: int
    spec: JobSpec
    home: str
    worker_id: str
    device: Literal["cpu", "cuda"]
    threads_per_rank: int | None = None


class Control(Document):
    """Order of the runner to the trainer. Absent file: go on."""

    action: Literal["cancel", "pause", "drain"]


class Result(Document):
    """How the ranks ended.

    ``stopped`` means: left at a step boundary after an order, with a checkpoint; where the disk did not take that one,
    ``reason`` is ``storage_full``, and the job goes on from the checkpoint before.
    """

    outcome: Literal["succeeded", "stopped", "failed"]
    action: Literal["cancel", "pause", "drain"] | None = None
    reason: Reason | None = None
    message: str | None = None
    rank: int = 0
    step: int = 0
    summary: dict[str, Any] = Field(default_factory=dict)


def drop_checkpoints(files: JobFiles) -> None:
    """Remove the checkpoints of every attempt; what cannot be removed stays."""
    for attempt in files.attempts():
        shutil.rmtree(attempt.checkpoints, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
