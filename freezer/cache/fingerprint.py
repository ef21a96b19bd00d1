"""What a sample's raw inputs looked like: one 64-bit number for each row, to notice undeclared augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from freezer.buffers import parts
from freezer.cache.tree import tensors

_GOLDEN = 0x9E3779B97F4A7C15
_FACTOR = 0x5851F42D4C957F2D  # odd, so that no part can vanish
_PART = 1 << 20
_KINDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def fingerprints(nest: Any, rows: int) -> list[int]:
    """Position-weighted sums, modulo 2**64, over the bit patterns of all input tensors, for each of ``rows`` rows.

    Tensors whose first dimension is not ``rows`` count for every row.
    """
    total: Tensor | None = None
    for position, tensor in enumerate(tensors(nest)):
        own = tensor.dim() > 0 and tensor.shape[0] == rows
        sums = _sums(tensor.detach(), rows if own else 1, position)
        total = sums if total is None else total + sums.to(total.device)
    if total is None:
        return [0] * rows
    return [int(v) for v in total.expand(rows).tolist()]


def augmented(sample: int, draw: int) -> str:
    """What is wrong where a sample's fingerprint is another one than before, in its variant ``draw`` (-1: the only)."""
    drawn = f" in draw {draw}" if draw != -1 else ""
    return (
        f"the inputs of sample {sample}{drawn} are not the same as when they were cached: they are augmented at "
        "random, or ids are not those of the samples. Pass draws=... with the number of each sample's variant "
        "(freezer.cache.draw_of and draw_generator make deterministic ones), or set freeze.cache to 'off'"
    )


@torch.no_grad()
def bits_of(tensor: Tensor) -> Tensor:
    """The same for a tensor as a whole, a sparse one by its indices and values: int64 without dimensions, on its
    device.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in parts(tensor.detach()):
        flat = part.reshape(-1)
        for start in range(0, flat.numel(), _PART):
            total = total * _FACTOR + _sums(flat[start : start + _PART], 1, 0)[0]
    return total


def _sums(tensor: Tensor, rows: int, salt: int) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.contiguous().view(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
    if flat.numel() == 0:
        return torch.zeros(rows, dtype=torch.int64, device=tensor.device)
    raw = flat.reshape(rows, -1)
    size = raw.shape[1] * raw.element_size()
    width = next(w for w in _KINDS if size % w == 0 and raw.storage_offset() * raw.element_size() % w == 0)
    words = raw.view(_KINDS[width])
    return (words * _weights(words.shape[1], salt, words.device)).sum(1)


_known: dict[tuple[int, int, torch.device], Tensor] = {}


def _weights(length: int, salt: int, device: torch.device) -> Tensor:
    """Odd multipliers, so that no single changed word can vanish."""
    key = (length, salt, device)
    if key not in _known:
        if len(_known) >= 32:
            _known.clear()
        steps = torch.arange(1 + salt * 7919, 1 + salt * 7919 + length, dtype=torch.int64, device=device)
        mixed = steps * (_GOLDEN - 2**64)
        _known[key] = (mixed ^ (mixed >> 29)) | 1
    return _known[key]
