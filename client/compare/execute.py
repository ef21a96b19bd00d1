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
from client.errors import Invalid
from client.flows import Json
from workers.jobs.record import TERMINAL

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


@dataclass(slots=True)
class _Active:
    run: Run
    began: float
    tries: int
    job: Json


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
) -> Outcome:
    """Run in order, ``workers`` jobs at a time; a failed run does not stop the others.

    It may be stopped at any moment: the next call goes on, and with the same service it finds the jobs under way again.

    Args:
        again: runs that succeeded before too.
        done: called with the id of each job that succeeded and whose report is kept.
        healthy: called between looks; raises when waiting is in vain.

    Raises:
        ComparisonError: a spec is refused; nothing was run. ClientError: the service does not answer.
    """
    screen = screen or Silent()
    outcome, took = Outcome(), _took(runs, folder)
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
    if not todo:
        return outcome
    screen.note(f"{len(runs)} runs: {len(outcome.before)} done before, {len(todo)} to do")
    check([run for run, _ in todo], client)
    active: dict[str, _Active] = {}
    while todo or active:
        healthy()
        while todo and len(active) < workers:
            run, tries = todo.popleft()
            job = client.submit(run.spec, idempotency_key=folder.idempotency_key(run, tries))
            active[job["id"]] = _Active(run, time.monotonic(), tries, job)
        for job_id, item in list(active.items()):
            item.job = client.get(job_id)
            if item.job["status"] not in TERMINAL:
                continue
            del active[job_id]
            record = _collect(client, item, folder) | {"workers": workers}
            folder.write(item.run, record)
            if record["status"] == "succeeded":
                outcome.succeeded.append(item.run.id)
                took.setdefault((item.run.workload, item.run.arm), []).append(record["seconds"])
                done(job_id)
            else:
                outcome.failed.append(item.run.id)
            left = [run for run, _ in todo] + [other.run for other in active.values()]
            eta = eta_seconds(left, took, workers) if left else None
            screen.ended(item.run, record, len(runs) - len(left), len(runs), eta)
        screen.running([(item.run, item.job) for item in active.values()])
        if active:
            time.sleep(poll_seconds)
    return outcome


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
