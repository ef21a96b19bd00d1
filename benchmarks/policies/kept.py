"""What the repository keeps of each run: one line, enough for table and plots. Another machine goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.compare import Folder
from client.compare.analyse import KEPT
from client.compare.expand import Run, starts_of
from client.files import write_text
from client.flows import Json

_HEAD = (
    "workload",
    "arm",
    "kind",
    "seed",
    "digest",
    "status",
    "error",
    "tries",
    "workers",
    "seconds",
    "measured_in",
    "note",
)
_REPORT = (*KEPT, "freeze_config", "machine", "versions")


def slim(record: Json) -> Json:
    """A record as :class:`client.compare.Folder` keeps it, without what neither table nor plots show."""
    report = record.get("report") or {}
    history = [
        {name: change[name] for name in ("step", "frozen", "thawed")}
        for change in (report.get("freezer") or {}).get("history") or []
    ]
    kept: Json = {name: record[name] for name in _HEAD if name in record}
    kept["report"] = {name: report[name] for name in _REPORT if name in report}
    if history:
        kept["report"]["freezer"] = {"history": history}
        kept["units"] = [{"name": unit["name"]} for unit in record.get("units") or []]
    return kept


def keep(results: Mapping[str, Json], path: Path, measured_in: str) -> None:
    """Write the records that succeeded, by id, one line each.

    Args:
        measured_in: name of the place for records that bear none: seconds of two places are not to be compared.
    """
    lines = [
        json.dumps({"id": name, "measured_in": measured_in, **slim(record)}, separators=(",", ":"))
        for name, record in sorted(results.items())
        if record["status"] == "succeeded"
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def restore(path: Path, folder: Folder, runs: Sequence[Run]) -> int:
    """Put what was kept of these very specs into the folder, where it has no record of its own; returns how many.

    What runs start from is told too, but not its weights: it is trained again where a run still needs them.

    Raises:
        ValueError: a line that is no record, as an interrupted checkout leaves it.
    """
    if not path.exists():
        return 0
    kept = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            kept[entry.pop("id")] = entry
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"line {number} of {path} is no record of a run: {error}") from error
    count = 0
    for run in (*runs, *starts_of(runs)):
        entry = kept.get(run.id)
        if entry is None or entry["digest"] != run.digest or folder.read(run) is not None:
            continue
        folder.write(run, entry)
        count += 1
    return count
