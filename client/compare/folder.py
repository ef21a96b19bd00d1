"""The folder of a comparison: one file for each run that has ended, so that what is done is not done again.

::

    DIR/definition.json                  the comparison as it was read
    DIR/runs/<workload>--<arm>--<seed>.json     "start" in place of the arm: what the runs of that seed start from
    DIR/runs/.<workload>--<arm>--<seed>.job     the job of one that has been submitted and not ended yet
    DIR/home/                            state of the private stack; only failed jobs leave anything there
    DIR/comparison.json  comparison.md  *.png
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from client.compare.expand import Run, starts_of
from client.files import sole_owner, write_json, write_text
from client.flows import Json

Standing = Literal["done", "new", "changed", "failed", "again"]


class Folder:
    """Records of runs under ``root``, which is made where it is missing."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs, self.home = root, root / "runs", root / "home"
        self.runs.mkdir(parents=True, exist_ok=True)

    def owned(self) -> AbstractContextManager[None]:
        """One command at a time works in it. Raises client.files.FolderInUse."""
        return sole_owner(self.root, "comparison")

    def path(self, run: Run) -> Path:
        return self.runs / f"{run.id}.json"

    def read(self, run: Run) -> Json | None:
        """The record of a run; ``None`` where there is none, or a damaged one, which counts as none."""
        try:
            record = json.loads(self.path(run).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and "digest" in record else None

    def write(self, run: Run, record: Json) -> None:
        """Keep what a run gave: ``status``, ``report``, ``units``, ``job_id``, ``tries``, ``seconds``, ``error``."""
        head = {"workload": run.workload, "arm": run.arm, "kind": run.kind, "seed": run.seed, "digest": run.digest}
        start = {} if run.start is None else {"start": run.start.spec}
        write_json(self.path(run), {**head, **record, "spec": run.spec, **start})
        self._note(run).unlink(missing_ok=True)

    def _note(self, run: Run) -> Path:
        return self.runs / f".{run.id}.job"

    def note(self, run: Run, key: str, job_id: str) -> None:
        """Remember what was submitted with this key: a service forgets keys after a day, and jobs may take longer."""
        write_json(self._note(run), {"key": key, "job_id": job_id})

    def noted(self, run: Run, key: str) -> str | None:
        """The job submitted with this key that has no record yet. It may be another service's, or gone."""
        try:
            note = json.loads(self._note(run).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            note = None
        if isinstance(note, dict) and note.get("key") == key:
            return str(note["job_id"])
        return None

    def results(self, runs: Sequence[Run]) -> dict[str, Json]:
        """By the run's id: records of just these specs and of what they start from, succeeded or failed."""
        found = {run.id: (run, self.read(run)) for run in (*runs, *starts_of(runs))}
        return {name: record for name, (run, record) in found.items() if record and record["digest"] == run.digest}

    def unfinished(self, runs: Sequence[Run], *, again: bool = False) -> list[Run]:
        """Those that are to be done."""
        return [run for run in runs if standing(run, self.read(run), again=again) != "done"]

    def job_of_start(self, start: Run, *, again: bool) -> str | None:
        """The job that trained a start; ``None`` where it is to be trained."""
        record = self.read(start) or {}
        return record.get("job_id") if standing(start, record or None, again=again) == "done" else None

    def tries_of_start(self, start: Run, *, again: bool) -> int:
        """Tries before the one that is wanted of a start: one that succeeded is the one, so that a running service
        finds its job again."""
        record = self.read(start)
        tries = int((record or {}).get("tries", 0))
        return tries - 1 if standing(start, record, again=again) == "done" else tries

    def idempotency_key(self, run: Run, tries: int) -> str:
        """The same for the same spec, folder and number of earlier tries: an interrupted command finds its job again,
        even if it was cut off before :meth:`note`, and another folder measures anew."""
        text = json.dumps([self.token(), run.digest, run.spec, tries], sort_keys=True)
        return f"compare-{hashlib.sha256(text.encode()).hexdigest()[:40]}"

    def token(self) -> str:
        """A name of its own."""
        path = self.runs / ".token"
        if not path.exists() or not path.read_text(encoding="utf-8"):
            write_text(path, secrets.token_hex(8))  # whole: two folders with half a name would share their jobs
        return path.read_text(encoding="utf-8")


def standing(run: Run, record: Json | None, *, again: bool) -> Standing:
    """Whether a run is to be done, and why."""
    if record is None:
        return "new"
    if record["digest"] != run.digest:
        return "changed"
    if record.get("status") != "succeeded":
        return "failed"
    return "again" if again else "done"
