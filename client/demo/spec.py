"""The demo's job: ``client/demo_job.json``, and the short form of it for CI. Pure but for reading the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.cli.specfile import load_spec

JOB_FILE = Path(__file__).resolve().parents[1] / "demo_job.json"
PACKAGES = ("minilm-l6", "20newsgroups")

SHORT = (
    "name=demo-short",
    "data.train_size=256",
    "data.test_size=256",
    "training.epochs=2",
    "freeze.window=4",
    "freeze.snapshot_every=1",
    "freeze.decide_every=2",
    "freeze.patience=1",
)
"""Overrides of the short form: the same path with fewer samples. Its figures say nothing about quality."""


def demo_spec(*, short: bool = False, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The spec to submit."""
    return load_spec(str(JOB_FILE), (*(SHORT if short else ()), *overrides))
