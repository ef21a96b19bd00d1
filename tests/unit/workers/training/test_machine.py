"""A report names the machine closely enough that two hosts are not taken for one."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from workers.training.machine import machine, processor

CPU = torch.device("cpu")
TWO_CORES = """\
processor\t: 0
cpu family\t: 25
model\t\t: 1
model name\t: A Processor
flags\t\t: sse avx2

processor\t: 1
cpu family\t: 25
model\t\t: 2
model name\t: Another
"""


def test_name_family_and_model_of_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(TWO_CORES)
    assert machine(CPU, tmp_path / "cpuinfo")["device_name"] == "A Processor (family 25, model 1)"


def test_a_processor_that_tells_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : Plain\n")
    assert processor(tmp_path / "cpuinfo") == "Plain"


def test_without_proc_there_is_still_a_name(tmp_path: Path) -> None:
    assert processor(tmp_path / "none") in {platform.processor(), platform.machine()}


def test_what_decides_how_the_machine_rounds_is_told() -> None:
    told = machine(CPU)
    assert told["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert told["threads_per_rank"] == torch.get_num_threads()
    assert told["device"] == "cpu"
