"""What a run ran on: enough to tell whether its seconds, and its very bits, can be held against another run's."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """As a report holds it.

    Convolutions and attention give other bits on another processor, or with other vector instructions: a comparison
    pairs what ran on the same ``device_name``, ``instructions`` and ``threads_per_rank`` (``client.compare``).
    """
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if cuda else processor(cpuinfo),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads_per_rank": torch.get_num_threads(),
        "system": platform.system(),
    }


def processor(cpuinfo: Path) -> str:
    """Name, family and model of the first processor; hypervisors often hide all but the last two."""
    told: dict[str, str] = {}
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    named = told.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{name} {told[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if told.get(key)]
    return f"{named} ({', '.join(numbers)})" if numbers else named
