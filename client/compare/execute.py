"""Run what is not done yet, each run as a job of the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from client.api import Client
from client.compare.errors import ComparisonError, pointer_of
from client.compare.expand import Run, starts_of
from client.compare.folder import Folder, standing
from client.compare.progress import Screen, Silent, eta_seconds
from client.compare.work import Todo, Work
from client.errors import Invalid
from client.flows import Json
from client.patience import PATIENCE_SECONDS, Patience

_WHY = {
    "changed": "its spec is not the one that its report is of; run again",
    "failed": "failed before; tried again",
    "again": "run again, as asked",
}
Took = dict[tuple[str, str], list[float]]


@dataclass(slots=True)
class Outcome:
    """Ids of runs: done before, succeeded and failed now."""

    before: list[str] = field(default_factory=list)
    succeeded: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Runs that have a record."""
        return len(self.before) + len(self.succeeded) + len(self.failed)


def check(runs: Sequence[Run], client: Client) -> None:
    """Let the service look at one spec of each workload and arm, and of each start, before hours are spent.

    Raises:
        ComparisonError: one is refused. ClientError: the service does not answer.
    """
    seen: set[tuple[str, str]] = set()
    for run in (*starts_of(runs), *runs):
        if (run.workload, run.arm) in seen:
            continue
        seen.add((run.workload, run.arm))
        try:
            client.submit(run.spec, validate_only=True)
        except Invalid as error:
            faults = "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in error.problems) or error.detail
            raise ComparisonError(_blamed(run), f"workload {run.workload!r}, arm {run.arm!r}: {faults}") from None


def _blamed(run: Run) -> str:
    if run.kind == "start":
        return pointer_of("workloads", run.workload, "start")
    return pointer_of("workloads", run.workload) if run.kind == "full" else pointer_of("arms", run.arm)


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

    What runs start from is run once, before the first that needs it; where it fails, they count as failed.

    It may be stopped at any moment: the next call goes on, and with the same service it finds the jobs under way again,
    however much later.

    Args:
        again: runs that succeeded before too.
        done: called with the id of each job that succeeded, once its report is kept and no run starts from it any more.
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
    check([item.run for item in todo], client)
    work = Work(client, folder, todo, workers=workers, again=again, patience=Patience(patience_seconds))
    took = _took((*runs, *starts_of(runs)), folder)

    while work.todo or work.active:
        healthy()
        found = work.look()
        for item, collected in found:
            for run, record in ((item.run, collected), *work.settle(item, collected)):
                kept = _keep(folder, run, record)
                good = kept["status"] == "succeeded"
                if good:
                    took.setdefault((run.workload, run.arm), []).append(kept["seconds"])
                if run.kind != "start":
                    (outcome.succeeded if good else outcome.failed).append(run.id)
                left = work.left()
                eta = eta_seconds([*left, *work.starts_left()], took, workers) if left else None
                screen.ended(run, kept, outcome.ended, len(runs), eta)
                if good and run.kind != "start":
                    done(record["job_id"])
            for job_id in work.unneeded():
                done(job_id)
        screen.running([(item.run, item.job) for item in work.active.values()])
        if not found:
            time.sleep(poll_seconds)
    return outcome


def _todo(runs: Sequence[Run], folder: Folder, again: bool, screen: Screen, outcome: Outcome) -> list[Todo]:
    """Runs to do, each with the number of earlier tries; says why where there was a report already."""
    todo: list[Todo] = []
    for run in runs:
        record = folder.read(run)
        why = standing(run, record, again=again)
        if why == "done":
            outcome.before.append(run.id)
            continue
        if why != "new":
            screen.note(f"{run.id}: {_WHY[why]}")
        todo.append(Todo(run, int((record or {}).get("tries", 0))))
    return todo


def _took(runs: Sequence[Run], folder: Folder) -> Took:
    """Seconds of earlier runs, for the estimate of what is left."""
    took: Took = {}
    for run in runs:
        record = folder.read(run)
        if record and record.get("status") == "succeeded" and isinstance(record.get("seconds"), int | float):
            took.setdefault((run.workload, run.arm), []).append(float(record["seconds"]))
    return took


def _keep(folder: Folder, run: Run, record: Json) -> Json:
    """Write a record; of a start that a running service still had, the one of when it was trained stays."""
    if run.kind == "start" and record["status"] == "succeeded":
        known = folder.results([run]).get(run.id)
        # a record brought from another machine names no job
        if known and known["status"] == "succeeded" and known.get("job_id") == record["job_id"]:
            return known
    folder.write(run, record)
    return record
