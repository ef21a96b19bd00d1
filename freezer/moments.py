"""Optimizer state of frozen units leaves the memory that training needs, and comes back bit for bit on thaw."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ALIGN = 64  # bytes; any element type may begin there


@dataclass(slots=True)
class _Parked:
    """One state tensor away from home. ``away`` is the very object that the optimizer's state now holds."""

    parameter: nn.Parameter
    key: str
    away: Tensor
    home: torch.device


class Moments:
    """Parks the state tensors of frozen parameters: those of the parameter's own shape (momenta, second moments).

    From an accelerator they go to host memory. On the CPU they go to files mapped into memory where ``spill`` names a
    folder (page cache, which the kernel may write out and drop), else they stay. Keys, shapes, types and values in
    ``optimizer.state`` stay as they are, so that ``state_dict()`` and ``load_state_dict()`` work at any time.
    Loading replaces the tensors: the next :meth:`park` parks them anew.
    """

    def __init__(self, optimizer: Optimizer, spill: Path | None = None) -> None:
        self._optimizer = optimizer
        self._spill = spill
        self._parked: dict[str, list[_Parked]] = {}

    @property
    def units(self) -> frozenset[str]:
        """Names of the units with state away from home."""
        return frozenset(name for name, entries in self._parked.items() if self._current(entries))

    @property
    def parked_bytes(self) -> int:
        """Bytes of state that are away from home."""
        return sum(e.away.nbytes for entries in self._parked.values() for e in self._current(entries))

    def park(self, frozen: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Bring home what belongs to other units, park all that belongs to ``frozen`` (parameters by unit)."""
        for name in [n for n in self._parked if n not in frozen]:
            self._bring_home(name)
        for name, parameters in frozen.items():
            away = self._current(self._parked.get(name, []))
            known = {id(e.away) for e in away}
            moved = self._send(
                [(p, key, v) for p in parameters for key, v in self._movable(p) if id(v) not in known],
            )
            if away or moved:
                self._parked[name] = [*away, *moved]
            else:
                self._parked.pop(name, None)

    def begin(self, parameters: Collection[nn.Parameter]) -> None:
        """Give thawed parameters the momentum that fused SGD wants: it takes buffers for all of a group or for none.

        Zeros, with which the first update is that of a parameter without a buffer (``dampening`` 0). Only parameters
        that were frozen before the first step lack one.
        """
        wanted = {id(parameter) for parameter in parameters}
        for group in self._optimizer.param_groups:
            if not (group.get("fused") and group.get("momentum")):
                continue
            state = self._optimizer.state
            lacking = [p for p in group["params"] if state.get(p, {}).get("momentum_buffer") is None]
            if len(lacking) < len(group["params"]):
                for parameter in (p for p in lacking if id(p) in wanted):
                    buffer = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state[parameter]["momentum_buffer"] = buffer

    def _movable(self, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
        """State of the parameter's shape; an entry of another shape may serve more than this parameter."""
        if parameter not in self._optimizer.state or parameter.dim() == 0:
            return []
        state = self._optimizer.state[parameter]
        found = [(key, v) for key, v in state.items() if isinstance(v, Tensor) and v.shape == parameter.shape]
        return [(key, v) for key, v in found if v.numel() and dense(v)]

    def _current(self, entries: Sequence[_Parked]) -> list[_Parked]:
        """Without what ``load_state_dict`` or the user replaced since."""
        state = self._optimizer.state
        return [e for e in entries if e.parameter in state and state[e.parameter].get(e.key) is e.away]

    def _send(self, found: Sequence[tuple[nn.Parameter, str, Tensor]]) -> list[_Parked]:
        host = [entry for entry in found if entry[2].device.type != "cpu"]
        spilled = [entry for entry in found if entry[2].device.type == "cpu"] if self._spill is not None else []
        copies = [v.to("cpu") for _, _, v in host]
        if spilled:
            mapped = self._to_file([v for _, _, v in spilled])
            spilled, copies = (spilled, copies + mapped) if mapped else ([], copies)
        entries = []
        for (parameter, key, old), new in zip([*host, *spilled], copies, strict=True):
            self._optimizer.state[parameter][key] = new
            entries.append(_Parked(parameter, key, new, old.device))
        return entries

    def _to_file(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Copies that live in new files, which have no name any more; none where the disk does not take them.

        One file for each element type: ``torch.save`` refuses two types that view the same storage.
        """
        places: list[int] = []
        sizes: dict[torch.dtype, int] = {}
        for value in values:
            places.append(sizes.get(value.dtype, 0))
            sizes[value.dtype] = places[-1] + -(-value.nbytes // _ALIGN) * _ALIGN
        try:
            files = {dtype: _mapped(self._spill, size) for dtype, size in sizes.items()}
        except OSError as error:
            warnings.warn(
                f"the optimizer state of frozen units stays in memory: {self._spill} takes no {sum(sizes.values())} "
                f"bytes ({error})",
                RuntimeWarning,
                stacklevel=2,
            )
            return []
        copies = []
        for value, place in zip(values, places, strict=True):
            flat = files[value.dtype][place : place + value.nbytes].view(value.dtype)
            copies.append(flat.as_strided(value.shape, value.stride(), flat.storage_offset()).copy_(value))
        return copies

    def _bring_home(self, unit: str) -> None:
        for entry in self._current(self._parked[unit]):
            home = entry.away.clone() if entry.home.type == "cpu" else entry.away.to(entry.home)
            self._optimizer.state[entry.parameter][entry.key] = home
        del self._parked[unit]


def dense(value: Tensor) -> bool:
    """Whether a copy with the same strides has no holes and no overlap."""
    if value.layout != torch.strided:
        return False
    return value.is_contiguous() or torch.empty_like(value, device="meta").stride() == value.stride()


def _mapped(folder: Path | None, size: int) -> Tensor:
    """``size`` bytes of file-backed shared memory, uint8; the file goes when the tensor does.

    Raises:
        OSError: no such folder, no right to write, or no room. Room is taken now: later it would kill the process.
    """
    handle, path = tempfile.mkstemp(prefix="moments-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8, device="cpu")
    finally:
        os.close(handle)
        os.unlink(path)  # the map keeps the bytes
