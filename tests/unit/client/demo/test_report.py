"""The demo's table and report: what is measured, estimated and committed is told apart."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from client.demo.report import NOT_COMPARABLE, NOT_MEASURED, load_full_training, rows, summary
from client.demo.run import show
from client.demo.spec import demo_spec
from workers.jobs.spec import JobSpec

REPORT = {
    "accuracy": 0.5,
    "test_samples": 7528,
    "frozen_units": 3,
    "units": 14,
    "wall_seconds": 125.0,
    "flops": {"this_run": 6.0e12, "full_training": 1.0e13, "ratio": 0.6},
    "allreduce_bytes": {"measured": 1024**3, "full_training": 2 * 1024**3, "ratio": 0.5},
}
FULL = {"accuracy": 0.55, "wall_seconds": 200.0, "machine": "2 cores"}


def test_each_figure_says_where_it_is_from() -> None:
    table = {row.what: (row.ours, row.full) for row in rows(REPORT, FULL, short=False)}
    assert table == {
        "test accuracy (all 7,528)": ("0.5000 (measured)", "0.5500 (committed benchmark)"),
        "wall time": ("2:05 (measured)", "3:20 (committed benchmark, 2 cores)"),
        "FLOPs of training": ("6.00e+12 (estimated, 60.0% of full)", "1.00e+13 (estimated)"),
        "all-reduce bytes a rank": ("1.0 GiB (measured, 50.0% of full)", "2.0 GiB (estimated)"),
        "layers frozen at the end": ("3 of 14 (measured)", "0 of 14"),
    }


def test_the_table_fits_100_columns_with_one_line_each() -> None:
    out = io.StringIO()
    table = rows(REPORT, {**FULL, "machine": None}, short=False)
    show(table, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= len(table) + 5


def test_a_machine_may_be_told_as_in_a_report() -> None:
    full = {**FULL, "machine": {"device_name": "x86_64", "cpus": 2, "system": "Linux"}}
    assert rows(REPORT, full, short=False)[1].full == "3:20 (committed benchmark, x86_64, 2 cores)"


def test_without_a_benchmark_it_says_so() -> None:
    assert {row.full for row in rows(REPORT, None, short=False)[:2]} == {NOT_MEASURED}


def test_the_short_form_is_compared_with_nothing() -> None:
    table = rows(REPORT, FULL, short=True)
    assert {row.full for row in table[:2]} == {NOT_COMPARABLE}
    assert table[0].what == "test accuracy (first 7,528)"


def test_the_report_has_the_promised_keys() -> None:
    report = summary(
        job={"id": "job_1", "status": "succeeded"}, report=REPORT, full=None, short=False, demo_seconds=1.0, model=None
    )
    promised = ("status", "accuracy", "frozen_units", "units", "flops_ratio", "allreduce_bytes_ratio", "wall_seconds")
    assert [report[name] for name in promised] == ["succeeded", 0.5, 3, 14, 0.6, 0.5, 125.0]
    json.dumps(report)


def test_a_failed_job_has_a_report_too() -> None:
    report = summary(job={"id": "j", "status": "failed"}, report={}, full=None, short=False, demo_seconds=1, model=None)
    assert (report["status"], report["accuracy"], report["flops_ratio"]) == ("failed", None, None)
    rows({}, None, short=False)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_an_absent_or_damaged_benchmark_is_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "full.json"
    if text is not None:
        path.write_text(text)
    assert load_full_training(path) is None


@pytest.mark.parametrize("short", [False, True])
def test_the_committed_job_is_a_valid_spec(short: bool) -> None:
    spec = JobSpec.model_validate(demo_spec(short=short))
    spec.freeze_config()
    assert spec.resources.processes_per_worker == 2
    assert (spec.data.test_size is None) is not short
