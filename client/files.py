"""Small files that are written whole or not at all, and folders with one owner."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FolderInUse(Exception):
    """Another process works in the folder."""


def write_bytes(path: Path, content: bytes) -> None:
    """Written beside and renamed."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(content)
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(document, indent=2) + "\n")


@contextmanager
def sole_owner(folder: Path, what: str) -> Iterator[None]:
    """One ``what`` at a time in ``folder``, so that its old state can be cleared. Raises FolderInUse."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"another {what} is running in {folder}") from None
        yield
