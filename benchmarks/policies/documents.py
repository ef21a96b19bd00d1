"""What is compared: ``workloads.json`` with its own arms, or with those of another file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OTHER_ARMS = ("limits", "confirm")
"""Schedules by hand and recipes cut or hurried; the default setting once more, on seeds that decided nothing."""


@dataclass(frozen=True, slots=True)
class Document:
    """Attributes:
    comparison: as ``smartfrz compare`` reads it.
    kinds: ``fine-tuning`` or ``scratch``, by workload.
    halves: workloads by the name of their half; empty for the quick ones.
    usual: names of the arms of ``workloads.json``.
    """

    comparison: dict[str, Any]
    kinds: dict[str, str]
    halves: dict[str, list[str]]
    usual: frozenset[str]


def read(*, quick: bool = False, arms: str | None = None) -> Document:
    """``quick``: the tiny workloads. ``arms``: one of ``OTHER_ARMS`` instead of the usual ones."""
    comparison = _json("quick" if quick else "workloads")
    usual = frozenset(comparison["arms"])
    kinds, halves = comparison.pop("kinds"), comparison.pop("halves", {})
    if arms is not None:
        other = _json(arms)
        comparison["arms"] = other["arms"]
        for workload in comparison["workloads"].values():
            if "seeds" in other:
                workload.pop("seeds", None)
            if other.get("whole_test_split"):
                workload["data"].pop("test_size", None)
        comparison["seeds"] = other.get("seeds", comparison["seeds"])
    return Document(comparison, kinds, halves, usual)


def _json(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return found
