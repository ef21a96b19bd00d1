"""One rank of the benchmark: ``python -m benchmarks.engine.rank RANK WORLD FOLDER MODEL REPEATS QUICK PART...``.

Rank 0 writes ``FOLDER/<part>-<model>.json`` as soon as a part is done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.engine import events, memory, probes, steps
from benchmarks.engine.steps import Setting
from benchmarks.engine.workloads import workload

PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "attached": steps.attached,
    "prefix": steps.prefix,
    "cached": steps.cached,
    "event": events.event,
    "memory": memory.memory,
    "probes": probes.probes,
}


def device_of(rank: int) -> torch.device:
    """The rank's device: an accelerator of its own where there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def main(arguments: list[str]) -> None:
    rank, world, folder, model = int(arguments[0]), int(arguments[1]), Path(arguments[2]), arguments[3]
    repeats, quick, parts = int(arguments[4]), arguments[5] == "quick", arguments[6:]
    torch.set_num_threads(1)
    device = device_of(rank)
    if world > 1:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{folder.resolve()}/store-{model}",
            rank=rank,
            world_size=world,
            timeout=timedelta(minutes=3),
        )
    for part in parts:
        started = time.perf_counter()
        if part == "snapshot":
            found = events.snapshot(device, 10 if quick else 40)
        else:
            setting = Setting.make(workload(model, accelerator=device.type == "cuda"), device, rank, repeats, quick)
            found = {"title": setting.workload.title, **PARTS[part](setting)}
        found["part_seconds"] = round(time.perf_counter() - started, 2)
        if rank == 0:
            path = folder / f"{part}-{model}.json"
            beside = path.with_suffix(".new")
            beside.write_text(json.dumps(found), encoding="utf-8")
            beside.rename(path)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
