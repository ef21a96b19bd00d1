"""Which units were frozen when: from the history of reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.flows import Json


def timeline(workload: str, arm: str, records: Mapping[int, Json]) -> Json | None:
    """The freezing of one arm, all seeds; ``None`` where nothing was ever frozen.

    Args:
        records: by seed; ``report.freezer.history`` and ``units``.

    Returns:
        ``units``: names in execution order; ``steps``: of the longest run; ``changes``: by seed, ``[step, index of the
        unit, 1 frozen or 0 thawed]`` in order of time; ``ends``: by seed, its last step.
    """
    histories = {seed: (record["report"].get("freezer") or {}).get("history") or [] for seed, record in records.items()}
    if not any(histories.values()):
        return None
    names = unit_names(list(records.values()))
    index = {name: position for position, name in enumerate(names)}
    changes = {
        str(seed): [
            [entry["step"], index[unit], frozen]
            for entry in history
            for frozen, units in ((1, entry["frozen"]), (0, entry["thawed"]))
            for unit in units
        ]
        for seed, history in histories.items()
    }
    ends = {str(seed): int(record["report"].get("steps") or 0) for seed, record in records.items()}
    return {
        "workload": workload,
        "arm": arm,
        "units": names,
        "steps": max(ends.values()),
        "ends": ends,
        "changes": changes,
    }


def unit_names(records: Sequence[Json]) -> list[str]:
    """Execution order as the service told it; what it did not tell follows in the order of freezing."""
    names: list[str] = []
    for record in records:
        names += [str(unit["name"]) for unit in record.get("units") or [] if unit["name"] not in names]
    for record in records:
        for entry in (record["report"].get("freezer") or {}).get("history") or []:
            names += [name for name in entry["frozen"] if name not in names]
    return names


def frozen_share(found: Json) -> tuple[list[int], list[list[float]]]:
    """When how much was frozen.

    Returns:
        Edges in steps, from 0 to the last step (``k + 1``), and for each unit ``k`` shares in [0, 1] of the seeds that
        had it frozen between two edges. A run that ended counts with what it had frozen at its end.
    """
    changes: Mapping[str, list[list[int]]] = found["changes"]
    last = max(1, int(found["steps"]))
    edges = sorted({0, last, *(step for events in changes.values() for step, _, _ in events if 0 < step < last)})
    total = [[0.0] * (len(edges) - 1) for _ in found["units"]]
    for events in changes.values():
        state = [0] * len(found["units"])
        waiting = list(events)
        for column, begin in enumerate(edges[:-1]):
            while waiting and waiting[0][0] <= begin:
                _, unit, frozen = waiting.pop(0)
                state[unit] = frozen
            for unit, frozen in enumerate(state):
                total[unit][column] += frozen / len(changes)
    return edges, total
