"""Whether runs that are held against each other ran on machines that round alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from client.flows import Json

ELSEWHERE = "on another machine than full training"
"""Note of a row: its differences hold what the machines differ by, which can be as much as freezing costs."""

RIVALS_ELSEWHERE = "held against a calendar or early stopping that ran, in part, on another machine"
"""The same of what a row is held against besides full training."""

_ALIKE = ("device_name", "instructions", "threads_per_rank")


def elsewhere(of_seed: Mapping[int, Json], full: Mapping[int, Json]) -> list[str]:
    """The note, if a run of some seed rounds otherwise than the full training that it is paired with.

    Reports of before ``instructions`` was recorded are alike among themselves, and like no later one.
    """
    return [ELSEWHERE] if _apart(of_seed, full) else []


def rivals_elsewhere(of_seed: Mapping[int, Json], rivals: Iterable[Mapping[int, Json]]) -> list[str]:
    """The note, if a run of a rival rounds otherwise than ours of that seed."""
    return [RIVALS_ELSEWHERE] if any(_apart(of_seed, rival) for rival in rivals) else []


def _apart(ours: Mapping[int, Json], theirs: Mapping[int, Json]) -> bool:
    return any(_key(report) != _key(theirs[seed]) for seed, report in ours.items() if seed in theirs)


def _key(report: Json) -> tuple[Any, ...]:
    machine, versions = report.get("machine") or {}, report.get("versions") or {}
    return (*(machine.get(name) for name in _ALIKE), versions.get("torch"))
