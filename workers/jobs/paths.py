"""Keep the user's paths inside the directories that the operator allows. Standard library only."""

from __future__ import annotations

import os.path
import re
from pathlib import Path

_ENTRY = re.compile(r"^(?P<file>[^:]+\.py):(?P<function>[A-Za-z_][A-Za-z0-9_]*)$")


class PathOutside(ValueError):
    """The path leaves the directory that the operator allows."""


def confine(path: str | Path, root: Path) -> Path:
    """The absolute path, symbolic links resolved, if it lies inside ``root``. It need not exist.

    A relative path counts from ``root``. Ask ``os.path`` whether something is there: ``Path`` raises where a name is
    longer than the file system takes.

    Raises:
        PathOutside: it does not lie inside, by ``..``, by an absolute path or through a link.
    """
    text = str(path)
    if "\0" in text:
        raise PathOutside("a path must not contain a NUL character")
    base = root.expanduser().resolve()
    try:
        resolved = (base / text).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise PathOutside(f"{text!r} cannot be resolved: {error}") from error
    if not resolved.is_relative_to(base):
        raise PathOutside(f"{text!r} leads out of the allowed directory {root}")
    return resolved


def split_entry(entry: str) -> tuple[str, str]:
    """``file.py:function`` in its two parts.

    Raises:
        ValueError: it has another form.
    """
    match = _ENTRY.match(entry)
    if match is None:
        raise ValueError(f"{entry!r} must have the form file.py:function")
    return match["file"], match["function"]


_HUB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")


def model_source(path: str, data_dir: Path | None) -> Path | str:
    """Where a ``transformers`` model comes from: a folder under ``data_dir``, else a hub name.

    Whatever exists under ``data_dir`` is a folder; else a name of the form ``owner/name`` is one of the hub.

    Raises:
        PathOutside: it is neither.
    """
    if data_dir is not None:
        try:
            local: Path | None = confine(path, data_dir)
        except PathOutside:
            if not _HUB_NAME.match(path):
                raise
            local = None
        if local is not None and (os.path.exists(local) or not _HUB_NAME.match(path)):
            return local
    if _HUB_NAME.match(path):
        return path
    raise PathOutside(f"{path!r} is no hub name, and there is no data directory: the operator sets SMARTFRZ_DATA_DIR")
