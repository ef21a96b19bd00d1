"""Values at a cut as one row for each sample, and back: same bits, same strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from freezer.cache.tree import Leaf, tensors

Row = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one tensor leaf of a cut's output lies in memory.

    Attributes:
        order: its dimensions by falling stride. place: where among these the batch dimension is. k: rows of the
            tensor for each sample. dtype: of the values; kept: as they are stored.
    """

    order: tuple[int, ...]
    place: int
    k: int
    dtype: torch.dtype
    kept: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, value: Tensor, leaf: Leaf, *, narrow: bool) -> Layout | None:
        """``None`` for a leaf without a batch dimension."""
        if leaf.batch is None:
            return None
        strides = tuple(value.stride())
        order = tuple(sorted(range(value.dim()), key=lambda d: (-strides[d], d)))
        wide = value.is_floating_point() and value.element_size() > 2
        kept = torch.bfloat16 if narrow and wide else value.dtype
        return cls(order, order.index(leaf.batch[0]), leaf.batch[1], value.dtype, kept, value.device)

    def split(self, value: Tensor) -> Tensor:
        """Values of n samples as (n, k, ...), in the dtype they are stored in."""
        parts = value.permute(self.order).movedim(self.place, 0)
        return parts.reshape(-1, self.k, *parts.shape[1:]).to(self.kept)

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of :meth:`split`, bit for bit where nothing is rounded."""
        flat = parts.to(self.dtype).flatten(0, 1).movedim(0, self.place).contiguous()
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return flat.permute(inverse)


def pick(nest: Any, index: Tensor, rows: int) -> Any:
    """The inputs of the samples at ``index``: of every tensor whose first dimension is ``rows``."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
            return value.index_select(0, index.to(value.device))
        return value

    return tree_map(take, nest)


def first_dimension(nest: Any) -> int | None:
    """Samples in a batch: the first dimension of its first tensor that has one."""
    return next((t.shape[0] for t in tensors(nest) if t.dim() > 0), None)


def row_bytes(parts: Sequence[Tensor]) -> int:
    """Bytes that one sample takes."""
    return sum(p[0].numel() * p.element_size() for p in parts)
