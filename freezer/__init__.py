"""Attention-guided layer freezing for PyTorch training loops.

Names are loaded lazily (PEP 562), so that ``freezer.config``, ``freezer.errors`` and ``freezer.windows`` can be
imported without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freezer.config import FreezeConfig
    from freezer.errors import FreezerError
    from freezer.freezer import Freezer

__all__ = ["FreezeConfig", "Freezer", "FreezerError"]

_HOME = {
    "FreezeConfig": "freezer.config",
    "Freezer": "freezer.freezer",
    "FreezerError": "freezer.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'freezer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
