"""What the demo measured, beside what full training would have cost. Pure.

A cell carries its source in brackets: ``measured`` by this run, ``estimated`` from the model's shapes, or a ``committed
benchmark``, measured earlier and committed with the command that made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.cli.output import byte_size, duration
from client.flows import Json

FULL_TRAINING = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "demo_full_training.json"
NOT_MEASURED = "not measured on this checkout"
NOT_REPORTED = "not reported"
NOT_COMPARABLE = "not comparable (short form)"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    full: str


def load_full_training(path: Path = FULL_TRAINING) -> Json | None:
    """The committed benchmark of the same job without freezing; ``None`` where it is absent or unreadable."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "accuracy" in document else None


def rows(report: Json, full: Json | None, *, short: bool) -> list[Row]:
    """The table's lines from the job's report.json and the committed benchmark."""
    samples = report.get("test_samples")
    count = f"{samples:,}" if isinstance(samples, int) else "?"
    return [
        Row(
            f"test accuracy ({'first' if short else 'all'} {count})",
            _tag(_number(report.get("accuracy"), ".4f"), "measured"),
            _committed(full, "accuracy", ".4f", short),
        ),
        Row(
            "wall time",
            _tag(duration(report.get("wall_seconds")), "measured"),
            _committed(full, "wall_seconds", "time", short),
        ),
        Row("FLOPs of training", *_pair(report.get("flops"), lambda value: f"{value:.2e}")),
        Row("all-reduce bytes a rank", *_pair(report.get("allreduce_bytes"), byte_size)),
        Row(
            "layers frozen at the end",
            _tag(f"{report.get('frozen_units')} of {report.get('units')}", "measured"),
            f"0 of {report.get('units')}",
        ),
    ]


def summary(
    *, job: Json, report: Json, full: Json | None, short: bool, demo_seconds: float, model: Path | None
) -> Json:
    """``runs/demo/report.json``. Ratios are this run over full training: below 1 is saved."""
    return {
        "status": job.get("status"),
        "accuracy": report.get("accuracy"),
        "frozen_units": report.get("frozen_units"),
        "units": report.get("units"),
        "flops_ratio": _ratio(report.get("flops")),
        "allreduce_bytes_ratio": _ratio(report.get("allreduce_bytes")),
        "wall_seconds": report.get("wall_seconds"),
        "demo_seconds": round(demo_seconds, 2),
        "short": short,
        "job_id": job.get("id"),
        "status_reason": job.get("status_reason"),
        "status_message": job.get("status_message"),
        "test_samples": report.get("test_samples"),
        "flops": report.get("flops"),
        "allreduce_bytes": report.get("allreduce_bytes"),
        "full_training": full,
        "model": str(model) if model is not None else None,
        "spec": job.get("spec"),
    }


def _pair(costs: object, show: Callable[[float], str]) -> tuple[str, str]:
    """Our cost and full training's, each with its source, and the ratio. What was not measured was estimated."""
    if not isinstance(costs, dict):
        return NOT_REPORTED, NOT_REPORTED
    kind = "measured" if "measured" in costs else "estimated"
    ours, full, ratio = costs.get("measured", costs.get("this_run")), costs.get("full_training"), _ratio(costs)
    if not isinstance(ours, int | float) or not isinstance(full, int | float):
        return NOT_REPORTED, NOT_REPORTED
    share = f", {ratio:.1%} of full" if ratio is not None else ""
    return f"{show(ours)} ({kind}{share})", f"{show(full)} (estimated)"


def _ratio(costs: object) -> float | None:
    value = costs.get("ratio") if isinstance(costs, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _committed(full: Json | None, name: str, form: str, short: bool) -> str:
    if short:
        return NOT_COMPARABLE
    if full is None or not isinstance(full.get(name), int | float):
        return NOT_MEASURED
    value = duration(full[name]) if form == "time" else _number(full[name], form)
    where = f", {machine}" if name == "wall_seconds" and (machine := _machine(full.get("machine"))) else ""
    return f"{value} (committed benchmark{where})"


def _machine(machine: object) -> str:
    """A benchmark's machine, told in a sentence or as in a job's report."""
    if isinstance(machine, dict):
        return f"{machine.get('device_name')}, {machine.get('cpus')} cores"
    return str(machine or "")


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "none"


def _tag(text: str, source: str) -> str:
    return f"{text} ({source})"
