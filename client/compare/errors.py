"""Errors of comparisons.

::

    ComparisonError   the file is wrong, or a run of it is refused; ``pointer`` names the place in the file
    PlotsMissing      matplotlib is not installed
"""

from __future__ import annotations


class ComparisonError(ValueError):
    """A fault of the comparison file: ``pointer`` is a JSON pointer (RFC 6901) into it."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer or '/'}: {detail}")
        self.pointer, self.detail = pointer, detail


class PlotsMissing(Exception):
    """Plots were asked for without matplotlib."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib: install it with `pip install 'smartfrz[report]'`")


def escape(step: str) -> str:
    """A reference token of a JSON pointer (RFC 6901, section 3)."""
    return step.replace("~", "~0").replace("/", "~1")


def pointer_of(*steps: object) -> str:
    """``/a/b/0`` from its parts."""
    return "".join(f"/{escape(str(step))}" for step in steps)
