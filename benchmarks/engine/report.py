"""From raw samples to the table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engine.timing import ratio, ratios, spread

Raw = Mapping[str, Any]
ATTACHED, PREFIX, CACHED, EVENT, SNAPSHOT_MS = 1.01, 1.02, 1.05, 1.0, 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        bound: it must not exceed it, or where ``exact`` equal it to three decimals; ``None``: shown beside, no claim.
        value: ``None`` where it could not be taken; then ``more["why"]`` says why.
        more: whatever helps to read it.
    """

    measure: str
    value: float | None
    bound: float | None = None
    exact: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        """Whether the bound is met; ``None`` without a bound, and where the measure does not apply."""
        if self.bound is None or self.more.get("applies") is False:
            return None
        if self.value is None:
            return False
        return round(abs(self.value - self.bound), 3) == 0 if self.exact else self.value <= self.bound

    def short(self) -> dict[str, Any]:
        """The form that every benchmark here prints."""
        value = None if self.value is None else round(self.value, 4)
        return {"measure": self.measure, "value": value, "bound": self.bound, "ok": self.ok}


def rows_of(parts: Mapping[str, Mapping[str, Raw]]) -> list[Row]:
    """All figures of the parts at hand: ``parts[part][model]`` is what the part's measure gave on rank 0."""
    makers = (
        ("attached", _attached),
        ("prefix", _prefix),
        ("cached", _cached),
        ("prefix", _bytes),
        ("event", _event),
        ("snapshot", _snapshot),
        ("memory", _memory),
        ("prefix", _rival_steps),
        ("probes", _rival_probes),
        ("memory", _rival_memory),
    )
    return [row for part, make in makers for model, raw in parts.get(part, {}).items() for row in make(model, raw)]


def _timed(measure: str, over: Sequence[float], under: Sequence[float], bound: float | None, **more: Any) -> Row:
    quartiles = [round(x, 4) for x in spread(ratios(over, under))]
    seconds = {"milliseconds": round(1e3 * statistics.median(over), 2), "quartiles": quartiles}
    return Row(measure, ratio(over, under), bound, more={**seconds, "blocks": len(over), **more})


def _attached(model: str, raw: Raw) -> list[Row]:
    blocks = raw["blocks"]
    return [_timed(f"{model}: attached, nothing frozen / without", blocks["attached"], blocks["plain"], ATTACHED)]


def _prefix(model: str, raw: Raw) -> list[Row]:
    blocks, rows = raw["blocks"], []
    for cut, ideal in raw["ideal"].items():
        ours = blocks[f"frozen {cut}"]
        beside = {"of_full": round(ratio(ours, blocks["full"]), 4), "ideal_of_full": round(ideal, 4)}
        name = f"{model}: prefix of {cut} % frozen / cut off by hand"
        rows.append(_timed(name, ours, blocks[f"cut {cut}"], PREFIX, **beside))
    return rows


def _cached(model: str, raw: Raw) -> list[Row]:
    rows = []
    for cut, (state, reason) in raw["states"].items():
        name = f"{model}: prefix of {cut} % cached / suffix alone on tensors in RAM"
        if state == "on":
            blocks = raw["blocks"]
            more = {"steps_until_on": raw["fill_steps"][cut]}
            rows.append(_timed(name, blocks[f"cached {cut}"], blocks[f"in memory {cut}"], CACHED, **more))
        else:
            rows.append(Row(name, None, CACHED, more={"why": f"the cache is {state}: {reason}"}))
    return rows


def _bytes(model: str, raw: Raw) -> list[Row]:
    rows = []
    for cut, value in raw["bytes"].items():
        more = {} if value is not None else {"applies": False, "why": "one process: nothing is reduced"}
        rows.append(Row(f"{model}: all-reduce bytes with {cut} % frozen / active", value, 1.0, True, more))
    return rows


def _event(model: str, raw: Raw) -> list[Row]:
    seconds = raw["seconds"]
    step = statistics.median(seconds["step"])
    worse = [max(own, wall) / step for own, wall in zip(seconds["own"], seconds["wall"], strict=True)]
    more = {
        "milliseconds": round(1e3 * step * statistics.median(worse), 2),
        "quartiles": [round(x, 4) for x in spread(worse)],
        "largest": round(max(worse), 4),
        "events": len(worse),
    }
    after = statistics.median(seconds["next"]) / step
    return [
        Row(f"{model}: freeze event / full step", statistics.median(worse), EVENT, more=more),
        Row(f"{model}: extra time of the step after an event / full step", after),
    ]


def _snapshot(_: str, raw: Raw) -> list[Row]:
    both = [1e3 * (a + max(0.0, b)) for a, b in zip(raw["taken"], raw["waited"], strict=True)]
    value = 1e3 * (statistics.median(raw["taken"]) + max(0.0, statistics.median(raw["waited"])))
    more = {"quartiles": [round(x, 3) for x in spread(both)], "snapshots": len(both)}
    waits = raw["synchronised"]
    applies = {} if waits is not None else {"applies": False, "why": "no accelerator"}
    return [
        Row(f"snapshot of {raw['units']} units, ms on the critical path", value, SNAPSHOT_MS, more=more),
        Row("snapshot: waits for the device (0: no)", None if waits is None else float(waits), 0.0, True, applies),
    ]


def _held(after: Mapping[str, int]) -> float:
    return float(sum(after.values()) / after["parameters"])


def _memory(model: str, raw: Raw) -> list[Row]:
    ours = raw["arms"]["freezer"]
    more = {"before": round(_held(ours["before"]), 3), "bytes_before": ours["before"], "bytes_after": ours["after"]}
    name = f"{model}: memory of frozen units / their parameters"
    return [Row(name, _held(ours["after"]), 1.0, True, more)]


_RIVALS = {"in place": "Composer's rule", "re-wrapped": "plain re-wrap"}


def _rival_steps(model: str, raw: Raw) -> list[Row]:
    blocks = raw["blocks"]
    return [
        _timed(
            f"{model}: {title}, 50 % frozen / cut off by hand",
            blocks[arm],
            blocks["cut 50"],
            None,
            of_full=round(ratio(blocks[arm], blocks["full"]), 4),
        )
        for arm, title in _RIVALS.items()
    ]


def _rival_probes(model: str, raw: Raw) -> list[Row]:
    rows = []
    for arm, title in {"freezer": "freezer", **_RIVALS}.items():
        seen = dict(raw[arm])
        value = seen.pop("allreduce_bytes_over_active")
        rows.append(Row(f"{model}: {title}, all-reduce bytes / active", value, more=seen))
    return rows


def _rival_memory(model: str, raw: Raw) -> list[Row]:
    return [
        Row(f"{model}: {title}, memory of frozen units / their parameters", _held(raw["arms"][arm]["after"]))
        for arm, title in _RIVALS.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """For the terminal."""
    lines = [f"{'measure':<72}{'value':>9}{'bound':>8}  ok"]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.3f}"
        bound = "" if row.bound is None else f"{row.bound:.3f}" if row.exact else f"<={row.bound:g}"
        ok = {True: "yes", False: "NO", None: ""}[row.ok]
        lines.append(f"{row.measure:<72}{value:>9}{bound:>8}  {ok:<4}{_beside(row.more)}".rstrip())
    return "\n".join(lines)


def _beside(more: Mapping[str, Any]) -> str:
    words = []
    if "quartiles" in more:
        words.append("quartiles {:.3f} to {:.3f}".format(*more["quartiles"]))
    if "of_full" in more:
        words.append(f"of full training {more['of_full']:.2f}")
    if "ideal_of_full" in more:
        words.append(f"(ideal {more['ideal_of_full']:.2f})")
    for key, word in (("why", ""), ("optimizer_state_dict", "optimizer.state_dict() ")):
        if key in more:
            words.append(f"{word}{more[key]}")
    if more.get("batchnorm_statistics_moved"):
        words.append("BatchNorm statistics of frozen layers move")
    return ", ".join(words)
