"""What a cached value depends on beside its sample: the inputs' form, the pass' surroundings, the frozen weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from freezer.cache.attributes import Attributes, plain, plain_form
from freezer.cache.cut import Cut
from freezer.cache.fingerprint import bits_of
from freezer.cache.store import Key
from freezer.cache.tree import name_of
from freezer.errors import CacheError
from freezer.modes import fall_asleep
from freezer.sums import bit_sum

Signature = tuple[Any, ...]
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Containers that do the same in both modes."""


def sample_keys(ids: Tensor | None, draws: Tensor | None, rows: int | None) -> list[Key] | None:
    """A key for each sample of a batch of ``rows``, or ``None`` where there are no ids.

    Raises:
        CacheError: ids or draws do not fit the batch.
    """
    if ids is None:
        if draws is not None:
            raise CacheError("draws were passed without sample ids")
        return None
    numbers = _numbers("ids", ids, rows)
    variants = [-1] * len(numbers) if draws is None else _numbers("draws", draws, len(numbers))
    return list(zip(numbers, variants, strict=True))


def _numbers(what: str, values: Tensor, rows: int | None) -> list[int]:
    if not isinstance(values, Tensor) or values.dtype != torch.int64 or values.dim() != 1:
        raise CacheError(f"{what} must be a tensor of int64 with one dimension, a number for each sample of the batch")
    if rows is not None and len(values) != rows:
        raise CacheError(f"{len(values)} {what} were passed for a batch whose inputs have {rows} rows")
    return [int(v) for v in values.tolist()]


def opaque(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why values cannot be kept for these arguments: one of them may change, or be another, without being noticed."""
    for leaf in tree_leaves((tuple(args), dict(kwargs))):
        if not isinstance(leaf, Tensor) and not plain(leaf):
            return (
                f"the model is called with an argument that the cache cannot look into ({type(leaf).__qualname__}): "
                "pass tensors, numbers and texts, or collections of these"
            )
    return None


def signature(args: Sequence[Any], kwargs: Mapping[str, Any], rows: int) -> Signature:
    """Form of a batch without its number of rows, and what else decides which kernels run.

    Of arguments that are not :func:`opaque`.
    """
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    forms: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            own = leaf.dim() > 0 and leaf.shape[0] == rows
            forms.append((own, tuple(leaf.shape[own:]), leaf.dtype, str(leaf.device), leaf.requires_grad))
        else:
            forms.append(plain_form(leaf))
    kinds = sorted({leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)} | {"cpu"})
    casts = tuple((k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds)
    return (repr(spec), tuple(forms), casts, torch.get_default_dtype(), torch.get_float32_matmul_precision())


def sources(modules: Mapping[str, nn.Module], cut: Cut) -> dict[str, Tensor]:
    """Frozen weights and buffers that the values at the cut may depend on, by name."""
    found: dict[str, Tensor] = {}
    for path in (*cut.whole, *cut.live):
        for name, tensor in _weights(modules[path].named_parameters(), modules[path].named_buffers()):
            found[f"{path}.{name}"] = tensor
    for path in cut.open:  # a trained one has no part in it: the output would need gradients
        module = modules[path]
        for name, tensor in _weights(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            if not tensor.requires_grad:
                found[f"{path}.{name}"] = tensor
    return found


def _weights(*parts: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    return [pair for part in parts for pair in part]


def moody(modules: Mapping[str, nn.Module], cut: Cut) -> list[nn.Module]:
    """Modules whose mode, training or not, the values at the cut may depend on."""
    whole = (module for path in (*cut.whole, *cut.live) for module in modules[path].modules())
    found = dict.fromkeys((*whole, *(modules[path] for path in cut.open)))
    return [module for module in found if type(module) not in _PLAIN]


def concerned(modules: Mapping[str, nn.Module], cut: Cut) -> list[str]:
    """Paths of the modules whose plain attributes the values at the cut may depend on."""
    inside = tuple(f"{path}." for path in (*cut.whole, *cut.live))
    return [p for p in modules if p in (*cut.whole, *cut.live, *cut.open) or p.startswith(inside)]


class Watch:
    """Knows when weights, modes or plain attributes change; weights by the version that PyTorch counts up at each
    write, and sums anew only those.

    Args:
        found: weights, by name.
        moods: modules whose mode counts. One that sleeps is in eval mode whatever ``train()`` wrote last. Of the
            weights, their buffers may also be replaced by others.
        attributes: of the modules concerned.

    Attributes:
        changed: what the last :meth:`digest` found to be another than before, in words.
    """

    def __init__(self, found: Mapping[str, Tensor], moods: Sequence[nn.Module], attributes: Attributes) -> None:
        self.changed = ""
        self._attributes = attributes
        self._names = list(found)
        self._tensors = list(found.values())
        self._moods = list(moods)
        at = {id(tensor): i for i, tensor in enumerate(self._tensors)}
        self._homes = [(m._buffers, n, at[id(b)]) for m in moods for n, b in m._buffers.items() if id(b) in at]
        self._versions: list[int] = []
        self._sums: list[int] = []
        self._modes: list[bool] = []

    @property
    def still(self) -> bool:
        """Whether nothing was written, put into another mode or trained since the last :meth:`digest`. Some ten
        microseconds."""
        written = self._versions != [t._version for t in self._tensors] or bool(self._replaced())
        same = not written and self._modes == [_trains(m) for m in self._moods] and self.frozen
        return same and self._attributes.still

    @property
    def frozen(self) -> bool:
        return not any(t.requires_grad for t in self._tensors)

    def digest(self, *, afresh: bool = False) -> str:
        """Hash of the weights' bit patterns, of the modes and of the attributes."""
        sums, modes, first = list(self._sums), self._modes, not self._versions and not self._sums and not self._modes
        for i, tensor in self._replaced():
            self._tensors[i], afresh = tensor, True  # versions of two tensors say nothing
        now = [t._version for t in self._tensors]
        if afresh or not self._versions:
            self._sums = _bit_sums(self._tensors)
        else:
            moved = [i for i, (a, b) in enumerate(zip(self._versions, now, strict=True)) if a != b]
            for i, value in zip(moved, _bit_sums([self._tensors[i] for i in moved]), strict=True):
                self._sums[i] = value
        self._versions = now
        self._modes = [_trains(m) for m in self._moods]
        others = [n for n, a, b in zip(self._names, sums, self._sums, strict=False) if a != b]
        if others:
            self.changed = f"the weight or buffer {others[0]!r}"
        elif modes != self._modes:
            self.changed = "whether a module is in training mode"
        if first:  # the attributes are taken as they were given: passes may be under way that are undone later
            self.changed = ""
        elif not self._attributes.still:
            path, name = self._attributes.changed()[0]
            self.changed = f"the attribute {name!r} of {name_of(path)}"
            self._attributes.refresh()
        text = repr((list(zip(self._names, self._sums, strict=True)), self._modes, self._attributes.text))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _replaced(self) -> list[tuple[int, Tensor]]:
        found = ((i, home.get(name)) for home, name, i in self._homes)
        return [(i, torch.empty(0) if b is None else b) for i, b in found if b is not self._tensors[i]]


def _trains(module: nn.Module) -> bool:
    return module.training and fall_asleep not in module._forward_pre_hooks.values()


@torch.no_grad()
def _bit_sums(found: Sequence[Tensor]) -> list[int]:
    if not found:
        return []
    # the plain sum is fast, and blind to two numbers that change places, as they do in masks and not in weights
    sums = [bit_sum(t) if isinstance(t, nn.Parameter) else bits_of(t) for t in found]
    return [int(value) for value in torch.stack([s.to(found[0].device) for s in sums]).tolist()]
