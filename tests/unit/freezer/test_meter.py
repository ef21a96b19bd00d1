"""What the machine tells: memory of this very process, energy from a sysfs tree with all that real ones contain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freezer.meter import CudaPower, EnergyMeter, peak_memory

CPU = torch.device("cpu")
RANGE = 1_000_000_000


def zone(root: Path, folder: str, name: str, microjoules: int) -> Path:
    made = root / folder
    made.mkdir()
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    return made / "energy_uj"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


GROW = """
import torch
from freezer.meter import peak_memory

block = torch.ones(2**18)
before = peak_memory(torch.device("cpu"))
block = torch.ones((before.bytes + 2**26) // 4)
after = peak_memory(torch.device("cpu"))
del block
last = peak_memory(torch.device("cpu"))
assert after.bytes > before.bytes + 2**26, (before, after)
assert last.bytes >= after.bytes, ("a peak does not fall", after, last)
assert before.kind == after.kind == last.kind == "process_resident"
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_peak_memory_grows_with_what_is_allocated() -> None:
    # in a process of its own: here, earlier tests may have left memory that the block would be given once more
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_peak_memory_without_proc(tmp_path: Path) -> None:
    assert peak_memory(CPU, tmp_path / "none").bytes > 2**20


def test_packages_and_memory_count_once(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 7)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    again = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    meter = EnergyMeter(CPU, tmp_path)
    first.write_text("8000000\n")
    second.write_text("1000000\n")
    dram.write_text("500007\n")
    for inside in (core, whole, again):
        inside.write_text("900000000\n")
    energy = meter.read()
    assert energy.joules == pytest.approx(3.0 + 1.0 + 0.5)
    assert "whole machine" in energy.kind
    assert meter.read().joules == 0.0


def test_a_counter_that_wraps_between_two_readings(tmp_path: Path) -> None:
    counter, clock = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000), Clock()
    meter = EnergyMeter(CPU, tmp_path, clock)
    counter.write_text("2000000\n")
    meter.tick()  # too early to look
    clock.now += 10
    meter.tick()
    counter.write_text(f"{RANGE - 2_000_000}\n")
    clock.now += 10
    meter.tick()
    counter.write_text("0\n")
    assert meter.read().joules == pytest.approx((3e6 + (RANGE - 4e6) + 2e6) / 1e6)


def test_no_sensor_is_said_not_raised(tmp_path: Path) -> None:
    meter = EnergyMeter(CPU, tmp_path / "none")
    meter.tick()
    energy = meter.read()
    assert energy.joules is None
    assert "no RAPL counters" in energy.kind
    assert "no energy sensor is known for meta" in EnergyMeter(torch.device("meta")).read().kind


def test_a_sensor_that_breaks_in_the_middle(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(CPU, tmp_path)
    counter.write_text("no number")
    energy = meter.read()
    assert energy.joules is None
    assert "ValueError" in energy.kind
    assert meter.read() == energy


def test_power_over_time() -> None:
    clock, watts = Clock(), iter([100.0, 200.0, 200.0])
    power = CudaPower(torch.device("cuda", 0), lambda: next(watts), clock)
    clock.now += 2
    assert power.spent() == 300.0
    clock.now += 0.5
    assert power.spent() == 100.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_does_not_tell() -> None:
    energy = EnergyMeter(torch.device("cuda", 0)).read()
    assert energy.joules is None
    assert energy.kind.startswith("not measured: ")
