"""A comparison on this machine alone: in a private stack, which is there as long as it is needed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from client.compare.execute import Outcome, execute
from client.compare.expand import Run, starts_of
from client.compare.folder import Folder
from client.compare.progress import Screen, Silent
from client.private_stack import forget_job, private_stack


def execute_privately(
    runs: Sequence[Run],
    folder: Folder,
    packages: Path,
    *,
    workers: int = 1,
    again: bool = False,
    screen: Screen | None = None,
) -> Outcome:
    """:func:`client.compare.execute` in a stack of its own under ``folder.home``. Call it from the main thread.

    Files of a job that succeeded go as soon as its report is kept and no run starts from it any more. Failed jobs
    leave theirs, logs included, until the next call. Other settings (``SMARTFRZ_CODE_DIR`` and so on) are those of the
    environment.

    Args:
        packages: where data packages are.

    Raises:
        ComparisonError, StackError, ClientError.
        workers.packages.DataPackageMissing: nothing was started.
    """
    if not folder.unfinished(runs, again=again):
        return Outcome(before=[run.id for run in runs])
    jobs = (*runs, *starts_of(runs))
    need_packages(jobs, packages)
    screen = screen or Silent()
    count = "1 worker" if workers == 1 else f"{workers} workers"
    screen.note(f"starting a private stack: store, window store, API, {count}")
    with private_stack(folder.home, packages, workers=workers, ranks=max(map(ranks_of, jobs))) as stack:
        outcome = execute(
            runs,
            stack.client,
            folder,
            workers=workers,
            again=again,
            screen=screen,
            done=lambda job_id: forget_job(stack.home, job_id),
            healthy=stack.check,
        )
    if not outcome.failed:
        shutil.rmtree(folder.home, ignore_errors=True)
    return outcome


def ranks_of(run: Run) -> int:
    """DDP ranks that a run asks for."""
    return int((run.spec.get("resources") or {}).get("processes_per_worker", 1))


def need_packages(runs: Sequence[Run], packages: Path) -> None:
    """Raises DataPackageMissing: before anything starts, and with the command that brings it."""
    from workers.jobs.entries import DATASETS, MODELS
    from workers.packages import locate

    for run in runs:
        for table, part in ((DATASETS, "data"), (MODELS, "model")):
            entry = table.get(run.spec[part]["name"])
            if entry is not None and entry.package:
                locate(entry.package, packages)
