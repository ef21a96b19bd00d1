"""A stand-in for ``workers.training.main`` without torch: counts steps, keeps a journal, obeys ``control.json``.

The job's metadata says how it behaves: ``steps`` (of 20 ms), ``raise_at``, ``kill_at`` (rank 1 kills itself with -9),
``kill_at_once`` (every rank does, in every attempt), ``stubborn`` (neither orders nor TERM stop it), ``grandchild``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workers.jobs.layout import AttemptFiles, AttemptSpec, Control, Result, write_atomic

STEP_SECONDS = 0.02


def note(path: Path, **what: object) -> None:
    with open(path, "a") as stream:
        stream.write(json.dumps(what) + "\n")


def main(root: str) -> None:
    files = AttemptFiles(Path(root))
    spec = AttemptSpec.model_validate_json(files.spec.read_text())
    job, rank, orders = files.root.parent, int(os.environ["RANK"]), spec.spec.metadata
    journal, saved = job / f"journal-{rank}.jsonl", job / f"saved-{rank}"
    stubborn = "stubborn" in orders
    if "kill_at_once" in orders:
        os.kill(os.getpid(), signal.SIGKILL)
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "grandchild" in orders:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        note(job / "pids.jsonl", pid=child.pid, fence=spec.fence, rank=rank)
    note(job / "pids.jsonl", pid=os.getpid(), fence=spec.fence, rank=rank)
    step = int(saved.read_text()) if saved.exists() else 0
    note(journal, what="start", fence=spec.fence, step=step, at=time.monotonic())
    sys.stdout.write(f"rank {rank} starts at step {step}\n")
    sys.stdout.flush()
    while step < int(orders.get("steps", "5")):
        time.sleep(STEP_SECONDS)
        step += 1
        write_atomic(saved, str(step))
        note(journal, what="step", fence=spec.fence, step=step, at=time.monotonic())
        if step == int(orders.get("raise_at", "-1")) and rank == 0:
            raise RuntimeError("the batch size does not divide the moon")
        if step == int(orders.get("kill_at", "-1")) and rank == 1 and spec.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if files.control.exists() and not stubborn:
            control = Control.model_validate_json(files.control.read_text())
            if rank == 0:
                stopped = Result(outcome="stopped", action=control.action, step=step)
                write_atomic(files.result, stopped.model_dump_json())
            return
    if rank == 0:
        write_atomic(files.result, Result(outcome="succeeded", step=step, summary={"steps": step}).model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1])
