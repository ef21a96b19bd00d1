"""How a job looks while it runs, on a terminal and in a pipe."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from client.cli.lines import event_line, progress_words, status_line
from client.cli.output import age, byte_size, cell, duration
from client.cli.progress import JobProgress
from client.sse import Event

FROZEN = Event("3-0", "unit.frozen", None, {"unit": "layer[0].w", "index": 0, "of": 4, "step": 30, "probability": 0.9})


def _job(status: str, **progress: Any) -> dict[str, Any]:
    shown = {
        "phase": "training",
        "step": 5,
        "total_steps": 10,
        "ratio": 0.5,
        "loss": 1.25,
        "units": 4,
        "frozen_units": 1,
    }
    return {"id": "job_1", "status": status, "progress": {**shown, "eta_seconds": 65, **progress}}


def _screen(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    with JobProgress(console) as screen:
        screen.show(_job("queued", total_steps=0, phase="starting"))
        screen.show(_job("running"))
        screen.show(_job("running", step=6))
        screen.show(FROZEN)
        screen.show(Event("4-0", "checkpoint.saved", None, {"step": 30}))
        screen.show(_job("succeeded"))
    return out.getvalue()


def test_a_pipe_gets_one_line_for_each_thing_that_happened() -> None:
    assert _screen(terminal=False).splitlines() == [
        "job_1 queued",
        "job_1 running",
        "  step 5/10, loss 1.2500, 1/4 frozen, eta 1:05",
        "  frozen  layer[0].w (1 of 4) at step 30, probability 0.90",
        "job_1 succeeded",
    ]


def test_a_terminal_gets_a_bar_and_the_same_frozen_line() -> None:
    shown = _screen(terminal=True)
    assert "━" in shown
    assert "50%" in shown
    assert "eta 1:05" in shown
    assert "  frozen  layer[0].w (1 of 4) at step 30, probability 0.90" in shown


def test_lines_say_what_matters() -> None:
    evaluation = Event("1-0", "evaluation", "2026-01-01T00:00:00Z", {"step": 9, "accuracy": 0.5, "loss": None})
    assert event_line(evaluation).endswith("evaluation         step 9, accuracy 0.5000")
    recovered = Event("1-0", "job.recovered", None, {"status": "queued", "reason": "worker_lost", "message": "silent"})
    assert event_line(recovered) == "job.recovered      queued: worker_lost: silent"
    assert status_line({"status": "queued", "queue": {"reason": "no_worker_fits"}}) == "queued: no_worker_fits"
    assert progress_words({"progress": None}) == ""
    done = {"phase": "saving", "step": 10, "total_steps": 10}
    assert progress_words({"status": "running", "progress": done}) == "saving: step 10/10"
    assert progress_words({"status": "succeeded", "progress": done}) == "step 10/10"


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (59.6, "1:00"), (3725, "1:02:05"), (None, "")])
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (2048, "2.0 KiB"), (3 * 1024**3, "3.0 GiB"), (2**62, "4194304.0 TiB")]
)
def test_byte_sizes(count: int, text: str) -> None:
    assert byte_size(count) == text


def test_ages_and_cells() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert [age(at, now) for at in ("2026-01-01T23:59:30.5Z", "2026-01-01T22:00:00Z", None)] == ["29s", "2h", ""]
    assert [cell(value) for value in (None, 0.123456, "[red]", 3)] == ["", "0.1235", "\\[red]", "3"]
