"""Whether two runs ran on machines that round alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.flows import Json

ELSEWHERE = "on another machine than full training"
"""Note of a row: its differences hold what the machines differ by, which can be as much as freezing costs."""

_ALIKE = ("device_name", "instructions", "threads_per_rank")


def elsewhere(of_seed: Mapping[int, Json], full: Mapping[int, Json]) -> list[str]:
    """The note, if a run of some seed rounds otherwise than the full training that it is paired with.

    Reports of before ``instructions`` was recorded are alike among themselves, and like no later one.
    """
    apart = any(_key(report) != _key(full[seed]) for seed, report in of_seed.items() if seed in full)
    return [ELSEWHERE] if apart else []


def _key(report: Json) -> tuple[Any, ...]:
    machine, versions = report.get("machine") or {}, report.get("versions") or {}
    return (*(machine.get(name) for name in _ALIKE), versions.get("torch"))
