"""``smartfrz up`` as a process: it serves, tells where the key is, and takes everything down on TERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from client.api import Client

MAIN = [sys.executable, "-c", "from client.cli import main; main()"]


def _environment(home: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SMARTFRZ_")}
    return plain | {"SMARTFRZ_HOME": str(home)}


def test_up_serves_until_term(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [*MAIN, "up", "--port", "0", "--workers", "0"]
    with subprocess.Popen(command, env=_environment(home), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            assert "smartfrz is up at http://127.0.0.1:" in first
            assert str(home / "admin.key") in second
            with Client(home=home) as client:
                assert client.workers()["data"] == []
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert not (home / "server.json").exists()


def test_up_on_a_taken_port_says_so(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*MAIN, "up", "--port", port, "--workers", "0"]
        done = subprocess.run(
            command, env=_environment(tmp_path / "home"), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "choose another port" in done.stderr
    assert "Traceback" not in done.stderr
