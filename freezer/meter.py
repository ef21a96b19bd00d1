"""What the machine tells about a run: peak memory, and energy where a sensor can be read. Measured, never estimated."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Peak:
    """Highest memory use since the process began.

    Attributes:
        bytes: on the device of training alone, or of the whole process.
        kind: ``cuda_allocated`` (tensors on the device) or ``process_resident`` (everything the process holds).
    """

    bytes: int
    kind: str


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy since the last reading.

    Attributes:
        joules: ``None`` where nothing can be read.
        kind: what was measured and how; why not, where nothing was.
    """

    joules: float | None
    kind: str


def peak_memory(device: torch.device, status: Path = Path("/proc/self/status")) -> Peak:
    """Peak of tensors on a CUDA device, else of the process's resident memory."""
    if device.type == "cuda":
        return Peak(torch.cuda.max_memory_allocated(device), "cuda_allocated")
    if status.is_file():  # getrusage would tell the parent's peak, if that was higher when it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return Peak(1024 * int(line.split()[1]), "process_resident")
    unit = 1 if sys.platform == "darwin" else 1024
    return Peak(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "process_resident")


class _Source(Protocol):
    kind: str
    every: float

    def spent(self) -> float:
        """Joules since the last call. Must be called at least ``every`` seconds, roughly."""


class Rapl:
    """Linux powercap: counters of the processors' packages and of memory. They count for the whole machine.

    Raises:
        OSError: there is none, or it may not be read; usually only root may.
    """

    kind = "RAPL: processor packages and memory of the whole machine"
    every = 10.0  # a counter wraps within a minute or so on a large machine under load, at the soonest

    def __init__(self, root: Path = POWERCAP) -> None:
        # packages hold their cores, psys holds packages, the mmio interface shows the same packages again
        names = {zone: (zone / "name").read_text().strip() for zone in sorted(root.glob("intel-rapl:*"))}
        zones = [zone for zone, name in names.items() if name.startswith("package") or name == "dram"]
        if not zones:
            raise FileNotFoundError(f"no RAPL counters in {root}")
        self._ranges = {zone: _number(zone / "max_energy_range_uj") for zone in zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in zones}

    def spent(self) -> float:
        total = 0
        for zone, before in self._last.items():
            now = self._last[zone] = _number(zone / "energy_uj")
            total += now - before if now >= before else now - before + self._ranges[zone]
        return total / 1e6


class CudaPower:
    """A GPU's power, read through torch and summed over time by the trapezoidal rule.

    Raises:
        Exception: whatever torch raises where the driver's library cannot be reached.
    """

    every = 1.0

    def __init__(
        self,
        device: torch.device,
        watts: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = f"power of {device}, read about every second while stepping, times time"
        self._watts = watts or (lambda: torch.cuda.power_draw(device) / 1000)
        self._clock = clock
        self._last = (clock(), self._watts())

    def spent(self) -> float:
        (then, before), (now, watts) = self._last, (self._clock(), self._watts())
        self._last = (now, watts)
        return (now - then) * (before + watts) / 2


class EnergyMeter:
    """Joules of the device that trains, where it tells. Never raises: a run does not end for want of a figure.

    Args:
        device: where training runs.
        powercap: Linux' sysfs folder of energy counters.
        clock: seconds that never go backward.
    """

    def __init__(
        self, device: torch.device, powercap: Path = POWERCAP, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._source: _Source | None = None
        self._reason = ""
        self._joules = 0.0
        try:
            if device.type == "cuda":
                self._source = CudaPower(device)
            elif device.type == "cpu":
                self._source = Rapl(powercap)
            else:
                self._reason = f"not measured: no energy sensor is known for {device.type}"
        except Exception as error:
            self._fail(error)
        self._last = clock()

    def tick(self) -> None:
        """Call in every step: a counter must be read before it wraps. Almost always it only looks at the clock."""
        if self._source is not None and self._clock() - self._last >= self._source.every:
            self._take(self._source)

    def read(self) -> Energy:
        """Energy since the last reading, or since the beginning."""
        if self._source is not None:
            self._take(self._source)
        if self._source is None:
            return Energy(None, self._reason)
        joules, self._joules = self._joules, 0.0
        return Energy(joules, self._source.kind)

    def _take(self, source: _Source) -> None:
        self._last = self._clock()
        try:
            self._joules += source.spent()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        # the driver's library has errors of its own that cannot be named here
        self._source, self._reason = None, f"not measured: {type(error).__name__}: {error}"


def _number(path: Path) -> int:
    return int(path.read_text())
