"""Fixed-index sampling of weights: layer tailoring (SmartFRZ), with indices that stay the same for the whole run."""

from __future__ import annotations

import array
import ctypes
import hashlib
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from freezer.errors import UnitError
from freezer.trace import parameters_of
from freezer.units import Unit


def seed_of(names: Iterable[str], seed: int) -> int:
    """A 63-bit seed from parameter names, so that the same unit is sampled alike in every process and run."""
    digest = hashlib.sha256(f"{seed}\0{chr(0).join(names)}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def indices_of(total: int, samples: int, seed: int) -> Tensor:
    """``samples`` sorted flat indices below ``total``; int64. A small unit is tiled, a large one drawn at random.

    Drawing is with replacement: a permutation of a large embedding would cost more memory than the snapshot is worth.
    On the CPU, whatever the default device is: so are they the same everywhere.
    """
    if total <= samples:
        return (torch.arange(samples, device="cpu") % total).sort().values
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(total, (samples,), generator=generator, device="cpu").sort().values


class Sampler:
    """Samples the same weights of every unit at every snapshot.

    The weight matrices of a unit (two or more dimensions) are sampled as one flat vector; a unit without any is
    sampled over all its parameters.
    """

    def __init__(self, units: Sequence[Unit], model: nn.Module, samples: int, seed: int) -> None:
        parameters = parameters_of(model, all_names=True)
        self.samples = samples
        self._plan: dict[str, list[tuple[nn.Parameter, Tensor]]] = {}
        for unit in units:
            for name in unit.params:
                if name not in parameters:
                    raise UnitError(f"unit {unit.name!r} names parameter {name!r}, which the model does not have")
            owned = [(name, parameters[name]) for name in unit.params]
            chosen = [(n, p) for n, p in owned if p.dim() >= 2 and p.numel()] or [(n, p) for n, p in owned if p.numel()]
            if not chosen:
                continue
            flat = indices_of(sum(_numbers(p) for _, p in chosen), samples, seed_of([n for n, _ in chosen], seed))
            pieces, start = [], 0
            for _, p in chosen:
                inside = flat[(flat >= start) & (flat < start + _numbers(p))] - start
                if len(inside):
                    pieces.append((p, inside.to(p.device)))
                start += _numbers(p)
            self._plan[unit.name] = pieces

    @property
    def device(self) -> torch.device:
        """Where snapshots are gathered: the device of the first sampled parameter; the CPU where there is none."""
        return next((p.device for pieces in self._plan.values() for p, _ in pieces), torch.device("cpu"))

    def parameters(self, names: Iterable[str]) -> list[nn.Parameter]:
        """The parameters that a snapshot of these units reads.

        Raises:
            UnitError: a name that is no sampled unit.
        """
        return [p for name in names for p, _ in self._pieces(name)]

    @torch.no_grad()
    def gather(self, names: Sequence[str], out: Tensor) -> None:
        """Fill ``out``: float32, contiguous, shape ``(len(names), samples)``, on :attr:`device`.

        Enqueues on a device and does not wait for it.

        Raises:
            UnitError: a name that is no sampled unit.
        """
        pieces = [piece for name in names for piece in self._pieces(name)]
        places = out.view(-1).split_with_sizes([len(index) for _, index in pieces])
        for (p, index), place in zip(pieces, places, strict=True):
            source = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
            if not source.is_contiguous():  # take() indexes in logical order without copying the tensor first
                place.copy_(torch.take(source, index), non_blocking=True)
            elif source.dtype == place.dtype and source.device == place.device:
                torch.index_select(source.view(-1), 0, index, out=place)
            else:
                place.copy_(torch.index_select(source.view(-1), 0, index), non_blocking=True)

    def sample(self, names: Iterable[str]) -> dict[str, bytes]:
        """One snapshot, now: for each unit ``samples`` float32 values, little-endian. One transfer for all units.

        Raises:
            UnitError: a name that is no sampled unit.
        """
        names = list(names)
        block = torch.empty(len(names), self.samples, device=self.device)
        self.gather(names, block)
        return rows_of(names, block.cpu())

    def _pieces(self, name: str) -> list[tuple[nn.Parameter, Tensor]]:
        if name not in self._plan:
            raise UnitError(f"no unit {name!r} to sample")
        return self._plan[name]


def _numbers(parameter: Tensor) -> int:
    """Real numbers in it: a complex one has two for each value."""
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def rows_of(names: Sequence[str], block: Tensor) -> dict[str, bytes]:
    """Each row of a contiguous float32 CPU tensor, shape ``(len(names), samples)``, as little-endian bytes."""
    return {name: _little_endian(row) for name, row in zip(names, block, strict=True)}


def _little_endian(values: Tensor) -> bytes:
    """Bytes of a contiguous float32 CPU tensor, without numpy."""
    data = ctypes.string_at(values.data_ptr(), values.numel() * 4)
    if sys.byteorder == "big":
        swapped = array.array("f", data)
        swapped.byteswap()
        return swapped.tobytes()
    return data
