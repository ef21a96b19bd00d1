"""Put a model's buffers back after a pass that is not to count: the same tensors in the same places, the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Type that shows the bits of a value, by its bytes."""


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers are as before, whatever happens inside: written in place, or replaced as in ``self.mean = ...``.

    Where one was replaced, so are the plain values of its module: many a table notes its length beside it.
    """
    places = [(module, name, b) for module in model.modules() for name, b in module._buffers.items()]
    values = {b: b.detach().clone() for _, _, b in places if b is not None}
    plain = {module: _plain(module) for module, _, _ in places}
    try:
        yield
    finally:
        replaced = {module for module, name, b in places if module._buffers.get(name) is not b}
        for module, name, b in places:
            if module in replaced:
                module._buffers[name] = b
        for module in replaced:
            module.__dict__.update(plain[module])
        with torch.no_grad():
            for buffer, value in values.items():
                if not same(buffer, value):
                    buffer.copy_(value)


def _plain(module: nn.Module) -> dict[str, Any]:
    kinds = (bool, int, float, str, type(None))
    return {k: v for k, v in module.__dict__.items() if isinstance(v, kinds) and k != "training"}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit (NaN equals NaN of the same bits, 0.0 does not equal -0.0)."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return all(same(x, y) for x, y in zip(parts(a), parts(b), strict=True))
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.is_floating_point():
        kind = INTEGERS[a.element_size()]
        a, b = a.detach().contiguous().view(kind), b.detach().contiguous().view(kind)
    return torch.equal(a, b)


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A sparse tensor's numbers, dense; of a dense one, itself."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.detach().coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
