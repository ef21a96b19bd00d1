"""Paths to the user's own data, inside the directory that the operator allows."""

from __future__ import annotations

import os.path
from pathlib import Path

from workers.jobs.paths import PathOutside, confine
from workers.settings import Settings
from workers.training.errors import ConfigInvalid, DatasetInvalid


def allowed(path: str | None, settings: Settings, pointer: str = "data.path") -> Path:
    """An existing path under the data directory.

    Raises:
        ConfigInvalid: no path, no data directory, or it leads out of it.
        DatasetInvalid: nothing is there.
    """
    if path is None:
        raise ConfigInvalid(f"{pointer} is missing: name the folder or file under the data directory")
    if settings.data_dir is None:
        raise ConfigInvalid(f"{pointer} needs a data directory: the operator sets SMARTFRZ_DATA_DIR")
    try:
        found = confine(path, settings.data_dir)
    except PathOutside as error:
        raise ConfigInvalid(f"{pointer}: {error}") from error
    if not os.path.exists(found):
        raise DatasetInvalid(f"{pointer}: there is no {path!r} in the data directory")
    return found
