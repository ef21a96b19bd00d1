"""What of a comparison is to be done, what is under way, and which starts are there."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from client.api import Client
from client.compare.expand import Run, starts_of
from client.compare.folder import Folder
from client.errors import ClientError, NotFound
from client.flows import Json
from client.patience import Patience
from workers.jobs.record import TERMINAL

_WEIGHTS = "model.safetensors"
"""Artifact of a job that others can start from."""


@dataclass(frozen=True, slots=True)
class Todo:
    """A run to do; ``tries`` were made before."""

    run: Run
    tries: int


@dataclass(slots=True)
class Active:
    """A job under way; ``began`` on the monotonic clock."""

    run: Run
    began: float
    tries: int
    job: Json


def next_of(todo: Sequence[Todo], there: Collection[str], under_way: Collection[str]) -> Run | None:
    """What to submit next: the first run that can go, or the start that it waits for.

    Args:
        there: ids of starts whose weights can be had.
        under_way: ids of runs and starts under way.
    """
    for item in todo:
        start = item.run.start
        if start is None or start.id in there:
            return item.run
        if start.id not in under_way:
            return start
    return None


class Work:
    """Runs ``todo``, those ``active`` by job, and ``there``: the jobs of starts that succeeded, by the start's id."""

    def __init__(
        self,
        client: Client,
        folder: Folder,
        todo: Sequence[Todo],
        *,
        workers: int,
        again: bool,
        patience: Patience,
    ) -> None:
        self.todo, self.active, self.there = list(todo), dict[str, Active](), dict[str, str]()
        self._client, self._folder, self._workers, self._again = client, folder, workers, again
        self._patience = patience

    def look(self) -> list[tuple[Active, Json]]:
        """Submit while there is room; jobs that have ended, which stay ``active``, each with its record.

        Raises:
            ClientError: no answer for longer than the patience.
        """
        ended: list[tuple[Active, Json]] = []
        try:
            while len(self.active) < self._workers and (run := next_of(self.todo, self.there, self._under_way())):
                self._submit(run)
            for item in self.active.values():
                item.job = self._client.get(item.job["id"])
                if item.job["status"] in TERMINAL:
                    ended.append((item, _collect(self._client, item, self._folder) | {"workers": self._workers}))
            self._patience.heard()
        except ClientError as error:
            if not self._patience.bears(error):
                raise
        return ended

    def settle(self, item: Active, record: Json) -> list[tuple[Run, Json]]:
        """A job that ended is no longer active; where it was a start and failed, its runs with their records."""
        del self.active[record["job_id"]]
        if item.run.kind != "start":
            return []
        if record["status"] == "succeeded":
            self.there[item.run.id] = record["job_id"]
            return []
        lost = [other for other in self.todo if other.run.start is not None and other.run.start.id == item.run.id]
        self.todo = [other for other in self.todo if other.run.start is None or other.run.start.id != item.run.id]
        error = f"what it starts from, {item.run.title}, {record['status']}: {record['error']}"
        rest = {"job_id": None, "seconds": 0.0, "workers": self._workers}
        return [(other.run, {"status": "failed", "error": error, "tries": other.tries, **rest}) for other in lost]

    def left(self) -> list[Run]:
        """Runs that have no record yet, without starts."""
        return [item.run for item in self.todo] + [a.run for a in self.active.values() if a.run.kind != "start"]

    def starts_left(self) -> list[Run]:
        """Starts that are still to be trained."""
        return [start for start in starts_of(item.run for item in self.todo) if start.id not in self.there]

    def unneeded(self) -> list[str]:
        """Jobs of starts that no run will need any more; each is told once."""
        needed = {start.id for start in starts_of(self.left())}
        return [self.there.pop(name) for name in list(self.there) if name not in needed]

    def _under_way(self) -> set[str]:
        return {item.run.id for item in self.active.values()}

    def _submit(self, run: Run) -> None:
        if run.kind == "start":
            tries = self._folder.tries_of_start(run, again=self._again)
        else:
            tries = next(item.tries for item in self.todo if item.run is run)
        ready = run if run.start is None else run.from_job(self.there[run.start.id])
        # the key is of the job that it starts from, too: another one is another request
        key = self._folder.idempotency_key(ready, tries)
        job = self._found(run, key)
        if job is None:
            job = self._client.submit(ready.spec, idempotency_key=key)
            self._folder.note(run, key, job["id"])
        self.active[job["id"]] = Active(run, time.monotonic(), tries, job)
        self.todo = [item for item in self.todo if item.run is not run]

    def _found(self, run: Run, key: str) -> Json | None:
        """The job that an earlier command submitted for it, if this service has it and it may still succeed."""
        job_id = self._folder.noted(run, key)
        if job_id is None and run.kind == "start":
            job_id = self._folder.job_of_start(run, again=self._again)
        if job_id is None:
            return None
        try:
            job = self._client.get(job_id)
        except NotFound:
            return None
        return None if job["status"] in ("failed", "cancelled") else job


def _collect(client: Client, item: Active, folder: Folder) -> Json:
    """What is kept of a job that has ended."""
    job = item.job
    record: Json = {
        "status": job["status"],
        "error": None,
        "job_id": job["id"],
        "tries": item.tries + 1,
        "seconds": round(time.monotonic() - item.began, 3),
    }
    if job["status"] != "succeeded":
        return record | {"error": f"{job.get('status_reason')}: {job.get('status_message')}"}
    found = {entry["path"] for entry in client.artifacts(job["id"])["data"]}
    wanted = ("report.json", _WEIGHTS) if item.run.kind == "start" else ("report.json",)
    if missing := [name for name in wanted if name not in found]:
        return record | {"status": "failed", "error": f"the job left no {missing[0]}"}
    path = client.download(job["id"], "report.json", folder.runs / f".{item.run.id}.report")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    finally:
        path.unlink(missing_ok=True)
    names = ("name", "index", "block", "parameters", "flops")
    units = [{name: unit.get(name) for name in names} for unit in client.freeze(job["id"])["units"]]
    return record | {"report": report, "units": units}
