"""Checksums: the sum of a tensor's bit patterns, modulo 2**64. Two that differ tell of tensors that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from freezer.buffers import INTEGERS, parts
from freezer.moments import dense


def sums_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sum of each, by name. One transfer a device."""
    return dict(zip(tensors, bit_sums(list(tensors.values())), strict=True))


@torch.no_grad()
def bit_sums(tensors: Sequence[Tensor]) -> list[int]:
    """The sum of each, in order. One transfer a device."""
    sums = [bit_sum(tensor) for tensor in tensors]
    result = [0] * len(sums)
    for device in {s.device for s in sums}:  # one transfer for each
        mine = [i for i, s in enumerate(sums) if s.device == device]
        for i, value in zip(mine, torch.stack([sums[i] for i in mine]).tolist(), strict=True):
            result[i] = value
    return result


def bit_sum(tensor: Tensor) -> Tensor:
    """int64, without dimensions, on the tensor's device; of a sparse tensor over its indices and values."""
    first, *rest = (_words(part.detach()).sum(dtype=torch.int64) for part in parts(tensor))
    for other in rest:
        first = first + other
    return first


def _words(value: Tensor) -> Tensor:
    """The bits as integers: of 64 bits where they fit, since summing those takes a sixteenth of the time."""
    real = torch.view_as_real(value) if value.is_complex() else value
    flat = real.as_strided((real.numel(),), (1,)) if dense(real) else real.reshape(-1)
    wide = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
    return flat.view(INTEGERS[8 if wide else flat.element_size()])
