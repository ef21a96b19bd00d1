"""Run the demo: a private stack, one job over HTTP, a table and a report, everything stopped."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.api import Client
from client.cli.progress import JobProgress
from client.demo.report import Row, load_full_training, rows, summary
from client.files import sole_owner, write_json
from client.flows import Json
from client.private_stack import private_stack
from client.sse import Event
from client.watch import watch

DEADLINE_SECONDS = 1800.0


class DemoError(Exception):
    """The demo's job did not end in time."""


def run_demo(*, spec: dict[str, Any], out: Path, packages_dir: Path, short: bool, console: Console) -> Json:
    """Run it all; returns the report, which is also in ``<out>/report.json``.

    Raises:
        DemoError, FolderInUse, StackError, ClientError: it could not be run. A failed job is a report, not an error.
    """
    began = time.monotonic()
    with sole_owner(out, "demo"):
        (out / "report.json").unlink(missing_ok=True)
        console.print("starting a private stack: store, window store, API, one worker", highlight=False)
        with private_stack(out / "home", packages_dir) as stack:
            client = stack.client
            job = client.submit(spec)
            console.print(f"submitted {job['id']} to {client.connection.url}", highlight=False)
            job = follow(client, job["id"], console)
            job_report, model = collect(client, job, out)
        full = None if short else load_full_training()
        report = summary(
            job=job,
            report=job_report,
            full=full,
            short=short,
            demo_seconds=time.monotonic() - began,
            model=model,
        )
        write_json(out / "report.json", report)
    if job["status"] == "succeeded":
        forget_checkpoints(out / "home")
        show(rows(job_report, full, short=short), console)
    else:
        console.print(escape(f"the job {job['status']}: {job.get('status_message') or ''}"), style="red")
    console.print(escape(f"report: {out / 'report.json'}; model: {model or 'none'}"), highlight=False, soft_wrap=True)
    return report


def follow(client: Client, job_id: str, console: Console) -> Json:
    """Show the job live; its final document. Raises DemoError after :data:`DEADLINE_SECONDS`."""
    deadline, job = time.monotonic() + DEADLINE_SECONDS, {}
    with JobProgress(console) as screen:
        for item in watch(client, job_id):
            screen.show(item)
            if not isinstance(item, Event):
                job = item
            if time.monotonic() > deadline:
                raise DemoError(f"the job did not end within {DEADLINE_SECONDS:.0f} s; it is {job.get('status')}")
    return job


def collect(client: Client, job: Json, out: Path) -> tuple[Json, Path | None]:
    """Bring the job's report and the trained model out of the service, over HTTP like anybody else."""
    found = {entry["path"] for entry in client.artifacts(job["id"])["data"]}
    report: Json = dict(job.get("summary") or {})
    if "report.json" in found:
        path = client.download(job["id"], "report.json", out / "job_report.json")
        report |= json.loads(path.read_text(encoding="utf-8"))
    model = None
    if "model.safetensors" in found:
        model = client.download(job["id"], "model.safetensors", out / "model.safetensors")
    return report, model


def forget_checkpoints(home: Path) -> None:
    """A finished demo keeps its logs and results, not hundreds of megabytes of checkpoints."""
    for folder in home.glob("jobs/*/attempt-*/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)


def show(table_rows: list[Row], console: Console) -> None:
    """The closing table."""
    table = Table(title="Freezing against full training", title_justify="left")
    for name in ("", "this run", "full training"):
        table.add_column(name, overflow="fold")
    for row in table_rows:
        table.add_row(escape(row.what), escape(row.ours), escape(row.full))
    console.print(table)
