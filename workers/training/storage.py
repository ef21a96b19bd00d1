"""Files of tensors, written by libraries whose errors say in words only that the disk failed: here it is an OSError."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

_CODE = re.compile(r"os error (\d+)")


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a file of safetensors.

    Raises:
        OSError: it could not be written; has the path.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        text = str(error)
        if "I/O error" not in text:
            raise
        found = _CODE.search(text)
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def save_object(value: Any, path: Path) -> None:
    """``torch.save``.

    Raises:
        OSError: it could not be written; has the path.
    """
    sink: _Sink | None = None
    try:
        with path.open("wb") as stream:
            sink = _Sink(stream)
            torch.save(value, sink)  # type: ignore[arg-type]
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else sink.error if sink is not None else None
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


class _Sink:
    """Remembers why a write failed: torch goes on to the end of its file and then complains about positions."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._stream.flush()
