"""The demo's frame: artifacts out of the service. No training here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from client.demo.run import collect, follow

if TYPE_CHECKING:
    from conftest import Service


def test_report_and_model_come_out_over_http(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
        folder = service.attempt(job_id, service.start(job_id)).artifacts
        (folder / "report.json").write_text(json.dumps({"accuracy": 0.5, "wall_seconds": 3}))
        (folder / "model.safetensors").write_bytes(b"weights")
        service.finish(job_id, summary={"accuracy": 0.4, "units": 3})
        job = follow(client, job_id, Console(quiet=True))
        report, model = collect(client, job, out)
    assert report == {"accuracy": 0.5, "wall_seconds": 3, "units": 3}
    assert model is not None
    assert model.read_bytes() == b"weights"


def test_a_failed_job_has_no_model(service: Service, tmp_path: Path) -> None:
    with service.client() as client:
        job_id = client.submit(service.spec)["id"]
        service.start(job_id)
        service.finish(job_id, "failed", reason="code_error", message="boom")
        assert collect(client, client.get(job_id), tmp_path) == ({}, None)
