"""Tensors with a header of text in one safetensors file: written complete or not at all, read with a clear error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freezer.errors import PredictorError


def write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Replace ``path`` in one step; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, header)
    scratch.chmod(0o644)  # safetensors writes 0600; a package's files are for everybody
    os.replace(scratch, path)


def read(path: Path, what: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors.

    Raises:
        PredictorError: the file cannot be read; ``what`` says in the message what it should have been.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise PredictorError(f"{what} at {path} cannot be read: {error}") from error
