"""One process for each rank of a distributed test: started, waited for, and none outlives the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.distributed import TCPStore

ROOT = Path(__file__).parents[2]
PATIENCE = 400.0
"""Seconds that ranks may take before they count as stuck: some 20 times their need on a quiet machine, for a loaded one
starves them by that much."""


def rendezvous() -> tuple[TCPStore, dict[str, str]]:
    """Where ranks that read the environment meet, as under ``torchrun``: the store must outlive them.

    The store is up before they start, so that nobody else can take its port.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return store, {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def start(module: str, world: int, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """``python -m module RANK WORLD ARGUMENTS`` for each rank, one thread each."""
    return [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", module, str(rank), str(world), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def wait(ranks: Sequence[subprocess.Popen[str]], *codes: int, seconds: float = PATIENCE) -> None:
    """Until all have ended; fails with their output unless each did with one of the codes, by default 0.

    Ranks that have not ended in time are aborted, so that their output ends with where each of them stood.
    """
    end = time.monotonic() + seconds
    late = []
    try:
        outputs = []
        for number, rank in enumerate(ranks):
            try:
                outputs.append(rank.communicate(timeout=max(0.0, end - time.monotonic()))[0])
            except subprocess.TimeoutExpired:
                late.append(number)
                rank.send_signal(signal.SIGABRT)
                outputs.append(rank.communicate(timeout=10)[0])
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    told = "\n".join(
        f"rank {n}, exit code {r.returncode}:\n{o}" for n, (r, o) in enumerate(zip(ranks, outputs, strict=True))
    )
    if late:
        pytest.fail(f"ranks {late} had not ended after {seconds:.0f} s\n{told}")
    if any(rank.returncode not in (codes or (0,)) for rank in ranks):
        pytest.fail(told)
