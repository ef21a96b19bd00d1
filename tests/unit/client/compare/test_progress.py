"""What is shown: lines in a pipe, and what runs now on a terminal."""

from __future__ import annotations

import io

from comparisons import definition, record, report
from rich.console import Console

from client.compare import expand, parse
from client.compare.progress import ConsoleScreen, outcome_words

RUNS = expand(parse(definition(name="x")))
JOB = {"status": "running", "progress": {"phase": "training", "step": 3, "total_steps": 9}}


def shown(terminal: bool) -> str:
    out = io.StringIO()
    with ConsoleScreen(Console(file=out, force_terminal=terminal, width=100)) as screen:
        screen.running([(RUNS[0], JOB)])
        screen.ended(RUNS[0], record(RUNS[0], report(0.91, 1.5e12)), 1, 10, 125.0)
        screen.running([])
        screen.ended(RUNS[1], {"status": "failed", "error": "host_oom: [too little]"}, 10, 10, None)
    return out.getvalue()


def test_lines_of_a_pipe() -> None:
    assert shown(False).splitlines() == [
        "[1/10] digits/full/0 succeeded: accuracy 0.9100, 1.5e+12 FLOPs, 0:12; eta 2:05",
        "[10/10] digits/shorter-0.5/0 failed: host_oom: [too little]",
    ]


def test_a_terminal_sees_what_runs() -> None:
    text = shown(True)
    assert "digits/full/0 step 3/9" in text
    assert text.count("[10/10]") == 1


def test_a_failure_without_a_word_says_that() -> None:
    assert outcome_words({"status": "cancelled", "error": None}) == "cancelled: no reason given"
