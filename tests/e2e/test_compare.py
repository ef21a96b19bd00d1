"""``smartfrz compare`` as a user runs it: real training in a private stack, interrupted after one run, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

MAIN = [sys.executable, "-m", "client", "compare"]
DEFINITION = {
    "name": "tiny",
    "seeds": [0],
    "workloads": {
        "digits": {
            "model": {"name": "vgg-small", "options": {"width": 4}},
            "data": {"name": "mnist5k", "train_size": 128, "test_size": 50},
            "training": {"epochs": 1, "batch_size": 16},
            "resources": {"device": "cpu"},
        }
    },
    "arms": {"full": {}, "static": {"freeze": {"policy": "static", "options": {"first": 1}}}},
    "bounds": [{"arm": "static", "measure": "flops_ratio", "at_most": 0.9999}],
}


@pytest.mark.timeout(180)
def test_a_comparison_is_interrupted_resumed_and_reported(
    tmp_path: Path, packages_dir: Path, need: Callable[[str], Path]
) -> None:
    need("mnist5k")
    file, out = tmp_path / "tiny.json", tmp_path / "out"
    file.write_text(json.dumps(DEFINITION))
    command = [*MAIN, str(file), "--out", str(out), "--dest", str(packages_dir)]
    environment = {name: value for name, value in os.environ.items() if name != "SMARTFRZ_URL"}
    first = out / "runs" / "digits--full--0.json"

    log = tmp_path / "first.log"
    with log.open("wb") as stream:
        # a job in the background of a shell inherits that Ctrl-C is ignored
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while not first.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    assert "the same command goes on" in log.read_text()
    assert not psutil.wait_procs(children, timeout=10)[1], "nothing is left behind"
    assert not (out / "runs" / "digits--static--0.json").exists()
    before = first.read_bytes()

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 1 done before, 1 to do" in done.stdout
    assert first.read_bytes() == before
    document = json.loads((out / "comparison.json").read_text())
    assert [run["status"] for run in document["runs"]] == ["succeeded", "succeeded"]
    static = next(row for row in document["table"] if row["arm"] == "static")
    assert 0 < static["flops_ratio"]["mean"] < 1
    assert document["checks"][0]["ok"] is True
    timeline = document["timelines"][0]
    assert timeline["changes"]["0"] == [[0, 0, 1]], timeline
    assert len(timeline["units"]) > 3
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "runs",
        "definition.json",
        "comparison.json",
        "comparison.md",
        "digits-accuracy.png",
        "digits-timeline.png",
    }, "no state of the stack is left"
