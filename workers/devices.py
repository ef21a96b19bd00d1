"""Devices of a worker, leased by flock: the kernel frees a lease whatever happens to its holder.

A GPU's lock file is ``<home>/devices/<UUID>.lock``: the UUID is the same in every container that sees the card, so
replicas that share ``SMARTFRZ_HOME`` never share a GPU. CPU ranks are counted, not locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from workers.placement import Device

_GPU = re.compile(r"^GPU (?P<index>\d+): .*\(UUID: (?P<uuid>GPU-[0-9a-fA-F-]+)\)")


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    uuid: str

    @property
    def name(self) -> str:
        return f"cuda:{self.index}"


def parse_gpus(listing: str, visible: str | None = None) -> list[Gpu]:
    """GPUs in the output of ``nvidia-smi -L``, narrowed as ``CUDA_VISIBLE_DEVICES`` says (indices or UUIDs)."""
    found = [Gpu(int(m["index"]), m["uuid"]) for line in listing.splitlines() if (m := _GPU.match(line.strip()))]
    if visible is None:
        return found
    wanted = [entry.strip() for entry in visible.split(",") if entry.strip()]
    return [
        gpu for entry in wanted for gpu in found if entry == str(gpu.index) or (entry and gpu.uuid.startswith(entry))
    ]


def list_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """GPUs of this host by ``nvidia-smi``, without torch; none where there is no driver."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(done.stdout, environ.get("CUDA_VISIBLE_DEVICES")) if done.returncode == 0 else []


@dataclass(slots=True)
class Lease:
    """Devices held for one attempt. ``fds`` go to the guardian, which then holds them too."""

    device: Device
    fds: list[int] = field(default_factory=list)
    uuids: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that show the ranks their devices, and no others."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.uuids)}

    def release(self) -> None:
        """Let go of our own copies; a device is free once the guardian's are closed as well."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class DevicePool:
    """The devices that this worker may use.

    Args:
        home: ``SMARTFRZ_HOME``.
        gpus: what the host shows.
        max_processes: most ranks at once on the CPU.
    """

    def __init__(self, home: Path, gpus: Sequence[Gpu], max_processes: int) -> None:
        self._folder = home / "devices"
        self._gpus = list(gpus)
        self.max_processes = max_processes

    @property
    def names(self) -> list[str]:
        return [gpu.name for gpu in self._gpus] or ["cpu"]

    def acquire(self, device: Device, count: int) -> Lease | None:
        """``count`` devices at once, or ``None`` (and none held) when others hold too many of them."""
        lease = Lease(device)
        if device == "cpu":
            return lease if count <= self.max_processes else None
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            for gpu in self._gpus:
                if len(lease.fds) < count and (fd := self._try(gpu)) is not None:
                    lease.fds.append(fd)
                    lease.uuids.append(gpu.uuid)
        except BaseException:
            lease.release()
            raise
        if len(lease.fds) == count:
            return lease
        lease.release()
        return None

    def _try(self, gpu: Gpu) -> int | None:
        """The device's flock as a file descriptor, or ``None`` when another holds it."""
        fd = os.open(self._folder / f"{gpu.uuid}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return fd
