"""A file that fills its disk; stands alone, since user code of the tests imports it too."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def fill(ballast: Path) -> None:
    """Write to the file until its disk takes no more."""
    with suppress(OSError), ballast.open("ab", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
