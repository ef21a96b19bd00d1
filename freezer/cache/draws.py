"""Deterministic augmentation from a small set: which variant of a sample an epoch sees, as a pure hash."""

from __future__ import annotations

import hashlib

import torch


def draw_of(sample: int, epoch: int, choices: int, seed: int) -> int:
    """The variant of ``sample`` that ``epoch`` trains on, in ``range(choices)``.

    A pure function, so that a resumed run draws what the undisturbed one did. Few choices make the forward cache
    fill soon: each (sample, draw) is computed once.

    Raises:
        ValueError: ``choices`` below 1.
    """
    if choices < 1:
        raise ValueError("choices must be at least 1")
    return _hash("draw", sample, epoch, seed) % choices


def draw_generator(sample: int, draw: int, seed: int) -> torch.Generator:
    """A CPU generator for augmenting ``sample`` in variant ``draw``: the same numbers whenever it is asked for."""
    return torch.Generator().manual_seed(_hash("augment", sample, draw, seed) >> 1)


def _hash(*parts: int | str) -> int:
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
