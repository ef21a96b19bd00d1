"""Run what is not done yet, each run as a job of the service."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from client.api import Client
from client.compare.errors import ComparisonError, pointer_of
from client.compare.expand import Run
from client.compare.folder import Folder, standing
from client.compare.progress import Screen, Silent, eta_seconds
from client.errors import Invalid, Unavailable, Unreachable
from client.flows import Json
from workers.jobs.record import TERMINAL

_WHY = {
    "changed": "its spec is not the one that its report is of; run again",
    "failed": "failed before; tried again",
    "again": "run again, as asked",
}
PATIENCE_SECONDS = 120.0
"""How long a service may be away while jobs run in it: a part of it that died is started again."""
Took = dict[tuple[str, str], list[float]]


@dataclass(slots=True)
class Outcome:
    """Ids of runs: done before, succeeded and failed now."""

    before: list[str] = field(default_factory=list)
    succeeded: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def check(runs: Sequence[Run], client: Client) -> None:
    """Let the service look at one spec of each workload and arm, before hours are spent.

    Raises:
        ComparisonError: one is refused. ClientError: the service does not answer.
    """
    seen: set[tuple[str, str]] = set()
    for run in runs:
        if (run.workload, run.arm) in seen:
            continue
        seen.add((run.workload, run.arm))
        try:
            client.submit(run.spec, validate_only=True)
        except Invalid as error:
            faults = "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in error.problems) or error.detail
            pointer = pointer_of(
                "workloads" if run.kind == "full" else "arms", run.workload if run.kind == "full" else run.arm
            )
            raise ComparisonError(pointer, f"workload {run.workload!r}, arm {run.arm!r}: {faults}") from None


def execute(
    runs: Sequence[Run],
    client: Client,
    folder: Folder,
    *,
    workers: int = 1,
    again: bool = False,
    screen: Screen | None = None,
    done: Callable[[str], None] = lambda _: None,
    healthy: Callable[[], None] = lambda: None,
    poll_seconds: float = 1.0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Outcome:
    """Run in order, ``workers`` jobs at a time; a failed run does not stop the others.

    It may be stopped at any moment: the next call goes on, and with the same service it finds the jobs under way again.

    Args:
        again: runs that succeeded before too.
        done: called with the id of each job that succeeded and whose report is kept.
        healthy: called between looks; raises when waiting is in vain.

    Raises:
        ComparisonError: a spec is refused; nothing was run.
        ClientError: the service does not answer, for longer than ``patience_seconds`` where it answered before.
    """
    screen, outcome = screen or Silent(), Outcome()
    todo = _todo(runs, folder, again, screen, outcome)
    if not todo:
        return outcome
    screen.note(f"{len(runs)} runs: {len(outcome.before)} done before, {len(todo)} to do")
    check([run for run, _ in todo], client)
    work, took = _Work(client, folder, todo, workers, patience_seconds), _took(runs, folder)
    while work.todo or work.active:
        healthy()
        ended = work.look()
        for item, record in ended:
            folder.write(item.run, record)
            if record["status"] == "succeeded":
                outcome.succeeded.append(item.run.id)
                took.setdefault((item.run.workload, item.run.arm), []).append(record["seconds"])
                done(record["job_id"])
            else:
                outcome.failed.append(item.run.id)
            del work.active[record["job_id"]]
            left = [run for run, _ in work.todo] + [other.run for other in work.active.values()]
            eta = eta_seconds(left, took, workers) if left else None
            screen.ended(item.run, record, len(runs) - len(left), len(runs), eta)
        screen.running([(item.run, item.job) for item in work.active.values()])
        if not ended:
            time.sleep(poll_seconds)
    return outcome


@dataclass(slots=True)
class _Active:
    """A job under way; ``began`` on the monotonic clock."""

    run: Run
    began: float
    tries: int
    job: Json


class _Work:
    """What is to be done and what is under way: ``todo`` with the number of earlier tries, ``active`` by job."""

    def __init__(
        self, client: Client, folder: Folder, todo: deque[tuple[Run, int]], workers: int, patience_seconds: float
    ) -> None:
        self.todo, self.active = todo, dict[str, _Active]()
        self._client, self._folder, self._workers = client, folder, workers
        self._patience, self._heard = patience_seconds, time.monotonic()

    def look(self) -> list[tuple[_Active, Json]]:
        """Submit while there is room; jobs that have ended, which stay ``active``, each with its record.

        Raises:
            ClientError: no answer for longer than the patience.
        """
        ended: list[tuple[_Active, Json]] = []
        try:
            while self.todo and len(self.active) < self._workers:
                self._submit()
            for item in self.active.values():
                item.job = self._client.get(item.job["id"])
                if item.job["status"] in TERMINAL:
                    ended.append((item, _collect(self._client, item, self._folder) | {"workers": self._workers}))
            self._heard = time.monotonic()
        except (Unreachable, Unavailable):
            if time.monotonic() - self._heard > self._patience:
                raise
        return ended

    def _submit(self) -> None:
        run, tries = self.todo[0]
        job = self._client.submit(run.spec, idempotency_key=self._folder.idempotency_key(run, tries))
        self.active[job["id"]] = _Active(run, time.monotonic(), tries, job)
        self.todo.popleft()


def _todo(runs: Sequence[Run], folder: Folder, again: bool, screen: Screen, outcome: Outcome) -> deque[tuple[Run, int]]:
    """Runs to do, each with the number of earlier tries; says why where there was a report already."""
    todo: deque[tuple[Run, int]] = deque()
    for run in runs:
        record = folder.read(run)
        why = standing(run, record, again=again)
        if why == "done":
            outcome.before.append(run.id)
            continue
        if why != "new":
            screen.note(f"{run.id}: {_WHY[why]}")
        todo.append((run, int((record or {}).get("tries", 0))))
    return todo


def _took(runs: Sequence[Run], folder: Folder) -> Took:
    """Seconds of earlier runs, for the estimate of what is left."""
    took: Took = {}
    for run in runs:
        record = folder.read(run)
        if record and record.get("status") == "succeeded" and isinstance(record.get("seconds"), int | float):
            took.setdefault((run.workload, run.arm), []).append(float(record["seconds"]))
    return took


def _collect(client: Client, item: _Active, folder: Folder) -> Json:
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
    if "report.json" not in found:
        return record | {"status": "failed", "error": "the job left no report.json"}
    path = client.download(job["id"], "report.json", folder.runs / f".{item.run.id}.report")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    finally:
        path.unlink(missing_ok=True)
    names = ("name", "index", "block", "parameters", "flops")
    units = [{name: unit.get(name) for name in names} for unit in client.freeze(job["id"])["units"]]
    return record | {"report": report, "units": units}
