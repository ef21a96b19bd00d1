"""What a comparison file says: workloads, arms, seeds, bounds. Pure but for the reading.

::

    {"name": "policies", "seeds": [0, 1, 2],
     "workloads": {"digits": {"model": {"name": "resnet-small"}, "data": {"name": "mnist5k", "train_size": 4000}}},
     "arms": {"full": {}, "shorter": {"fractions": [0.5, 0.75]}, "early-stop": {},
              "linear": {"freeze.policy": "linear", "workloads": {"digits": {"freeze.options.level": 0.5}}}},
     "bounds": [{"arm": "linear", "measure": "accuracy_difference", "at_least": -0.002}]}

A workload is a job spec without seed and freeze section; its own ``seeds`` go before the file's. Its ``start`` is one
more such spec: a job that trains first, once for each seed and without freezing, and whose weights all runs of that
seed start from. An arm is what it changes in the spec; its ``workloads`` change it further for one workload, or leave
that out (``false``). ``"test_from": "train"`` beside them scores every run on held-out training data, to choose
settings without the test split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from client.cli.specfile import SpecFileError, load_spec
from client.compare.errors import ComparisonError, pointer_of
from client.compare.overrides import changed
from client.flows import Json

Kind = Literal["full", "shorter", "early-stop", "policy", "start"]
"""Of runs; ``start`` is of no arm."""
FULL, SHORTER, EARLY_STOP, START = "full", "shorter", "early-stop", "start"
NO_FREEZING: Json = {"freeze": {"policy": "none"}}
EARLY_STOP_DEFAULT: Json = {"training": {"early_stop": {"patience": 2}}, "data": {"validation_ratio": 0.1}}
"""What an ``early-stop`` arm does unless it says otherwise."""
MEASURES = (
    "accuracy",
    "accuracy_difference",
    "flops_ratio",
    "flops_speedup",
    "wall_ratio",
    "wall_speedup",
    "train_seconds_ratio",
    "allreduce_bytes_ratio",
    "equal_compute_difference",
    "early_stop_difference",
)
"""What can have a bound. ``*_speedup`` is full training over the arm."""
_NAME = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_LONGEST = 64
"""Characters of a name: workload, arm and seed together name a file."""
_KEYS = {"name", "seeds", "workloads", "arms", "bounds", "test_from"}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained. ``start``: spec of the job whose weights the runs of a seed start from."""

    name: str
    spec: Json
    seeds: tuple[int, ...]
    start: Json | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training. ``fraction``: of the steps, for ``shorter``. ``by_workload``: ``False`` leaves one out."""

    name: str
    kind: Kind
    entry: str
    """Name in the file, which the fractions of ``shorter`` share."""
    overrides: object
    by_workload: dict[str, Any]
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """What a measure of an arm must reach on each of the workloads."""

    arm: str
    measure: str
    workloads: tuple[str, ...]
    at_least: float | None
    at_most: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    name: str
    workloads: tuple[Workload, ...]
    arms: tuple[Arm, ...]
    bounds: tuple[Bound, ...]
    document: Json
    """The file as it was read."""

    @property
    def test_from(self) -> str:
        """What the file has all runs scored on: ``test`` unless it says ``train``."""
        return str(self.document.get("test_from") or "test")


def load(source: str, **changes: object) -> Comparison:
    """Read a JSON file, TOML where the name says so, or JSON from stdin (``-``).

    Args:
        changes: what to say in place of the file.

    Raises:
        ComparisonError: it cannot be read, or is wrong; the message names the place.
    """
    try:
        return parse(load_spec(source) | changes)
    except SpecFileError as error:
        raise ComparisonError("", str(error)) from None


def parse(document: Json) -> Comparison:
    """Raises ComparisonError."""
    for key in document:
        if key not in _KEYS:
            raise ComparisonError(pointer_of(key), f"unknown field; known: {', '.join(sorted(_KEYS))}")
    name = document.get("name", "comparison")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ComparisonError("/name", f"must be letters and digits joined by single . _ or -, not {name!r}")
    seeds = _seeds(document.get("seeds"), "/seeds") if "seeds" in document else None
    test_from = document.get("test_from")
    if test_from not in (None, "test", "train"):
        raise ComparisonError("/test_from", f'must be "test" or "train" (held out of it), not {test_from!r}')
    workloads = tuple(
        _workload(key, value, seeds, test_from)
        for key, value in _named(document.get("workloads"), "/workloads").items()
    )
    names = tuple(workload.name for workload in workloads)
    arms: list[Arm] = []
    for key, value in _named(document.get("arms"), "/arms").items():
        arms += _arms(key, value, names)
    known = [arm.name for arm in arms]
    if FULL not in known:
        raise ComparisonError("/arms", 'there must be an arm "full": {}, which everything is compared with')
    for arm in arms:
        if known.count(arm.name) > 1:
            raise ComparisonError(pointer_of("arms", arm.entry), f"two arms would be called {arm.name!r}")
        if arm.name == START and any(workload.start is not None for workload in workloads):
            raise ComparisonError(pointer_of("arms", START), "the jobs that workloads start from are called so")
    bounds = document.get("bounds", [])
    if not isinstance(bounds, list):
        raise ComparisonError("/bounds", "must be a list")
    checked = tuple(_bound(value, pointer_of("bounds", i), known, names) for i, value in enumerate(bounds))
    return Comparison(name, workloads, tuple(arms), checked, document)


def _named(value: object, pointer: str) -> Json:
    if not isinstance(value, dict) or not value:
        raise ComparisonError(pointer, "must be an object with at least one entry")
    for name in value:
        if not _NAME.fullmatch(name):
            raise ComparisonError(
                pointer + pointer_of(name), "names are letters and digits joined by single . _ or - (they name files)"
            )
        if len(name) > _LONGEST:
            raise ComparisonError(
                pointer + pointer_of(name), f"names have at most {_LONGEST} characters (they name files)"
            )
    return value


def _seeds(value: object, pointer: str) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else []
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ComparisonError(pointer, "must be a list of different integers from 0 on, at least one")
    return tuple(seeds)


def _workload(name: str, value: object, seeds: tuple[int, ...] | None, test_from: str | None) -> Workload:
    pointer = pointer_of("workloads", name)
    spec = _recipe(value, pointer, "the arms say how to freeze, not the workload")
    start = None
    if "start" in spec:
        start = _recipe(spec.pop("start"), f"{pointer}/start", "a start is trained without freezing")
    if test_from == "train":
        scored: Json = {"data": {"test_from": test_from}}
        spec = changed(spec, scored, pointer)
        start = None if start is None else changed(start, scored, f"{pointer}/start")  # nor does it see what scores
    own = _seeds(spec.pop("seeds"), f"{pointer}/seeds") if "seeds" in spec else seeds
    if own is None:
        raise ComparisonError("/seeds", f"no seeds for workload {name!r}: give a list here or in the workload")
    return Workload(name, spec, own, start)


def _recipe(value: object, pointer: str, why_no_freezing: str) -> Json:
    """A job spec that says neither how to freeze nor which seed."""
    if not isinstance(value, dict):
        raise ComparisonError(pointer, "must be a job spec")
    if "freeze" in value:
        raise ComparisonError(f"{pointer}/freeze", why_no_freezing)
    if isinstance(value.get("training"), dict) and "seed" in value["training"]:
        raise ComparisonError(f"{pointer}/training/seed", "the list of seeds sets it")
    return dict(value)


def _arms(name: str, value: object, workloads: tuple[str, ...]) -> list[Arm]:
    pointer = pointer_of("arms", name)
    if isinstance(value, list):
        return [Arm(name, _kind(name), name, value, {})] if name not in (FULL, SHORTER) else _refuse(pointer, name)
    if not isinstance(value, dict):
        raise ComparisonError(pointer, "must be an object of overrides, or a list of a.b=VALUE lines")
    overrides = dict(value)
    by_workload = overrides.pop("workloads", {})
    if not isinstance(by_workload, dict):
        raise ComparisonError(f"{pointer}/workloads", "must be an object: workload -> overrides, or false")
    for workload in by_workload:
        if workload not in workloads:
            text = f"no such workload; known: {', '.join(workloads)}"
            raise ComparisonError(f"{pointer}{pointer_of('workloads', workload)}", text)
    fractions = overrides.pop("fractions", None) if name == SHORTER else None
    if name in (FULL, SHORTER) and overrides:
        return _refuse(pointer + pointer_of(next(iter(overrides))), name)
    if name == FULL and by_workload:
        return _refuse(f"{pointer}/workloads", name)
    if name != SHORTER:
        return [Arm(name, _kind(name), name, overrides, by_workload)]
    if any(change is not False for change in by_workload.values()):
        return _refuse(f"{pointer}/workloads", name)
    return [
        Arm(f"{SHORTER}-{fraction:g}", "shorter", name, {}, by_workload, fraction)
        for fraction in _fractions(fractions, f"{pointer}/fractions")
    ]


def _refuse(pointer: str, name: str) -> list[Arm]:
    raise ComparisonError(pointer, f"{name!r} is the workload's own recipe, without freezing: it takes no overrides")


def _kind(name: str) -> Kind:
    if name == FULL:
        return "full"
    return "early-stop" if name == EARLY_STOP or name.startswith(f"{EARLY_STOP}-") else "policy"


def _fractions(value: object, pointer: str) -> list[float]:
    if not isinstance(value, list) or not value:
        raise ComparisonError(pointer, 'must be a list of shares of the steps, such as "fractions": [0.5, 0.75]')
    for position, share in enumerate(value):
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0.0 < share < 1.0:
            raise ComparisonError(f"{pointer}/{position}", "must lie between 0 and 1")
    return sorted(float(share) for share in value)


def _bound(value: object, pointer: str, arms: list[str], workloads: tuple[str, ...]) -> Bound:
    if not isinstance(value, dict):
        raise ComparisonError(pointer, "must be an object: arm, measure, at_least or at_most, workloads")
    for key in value:
        if key not in ("arm", "measure", "at_least", "at_most", "workloads"):
            raise ComparisonError(pointer + pointer_of(key), "unknown field")
    if value.get("arm") not in arms:
        raise ComparisonError(f"{pointer}/arm", f"no such arm; known: {', '.join(arms)}")
    if value.get("measure") not in MEASURES:
        raise ComparisonError(f"{pointer}/measure", f"no such measure; known: {', '.join(MEASURES)}")
    if ("at_least" in value) == ("at_most" in value):
        raise ComparisonError(pointer, "needs exactly one of at_least and at_most")
    limit = value.get("at_least", value.get("at_most"))
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        raise ComparisonError(pointer, "the bound must be a number")
    chosen = value.get("workloads", list(workloads))
    if not isinstance(chosen, list) or not chosen or any(name not in workloads for name in chosen):
        raise ComparisonError(f"{pointer}/workloads", f"must be a list of workloads; known: {', '.join(workloads)}")
    least, most = (limit, None) if "at_least" in value else (None, limit)
    return Bound(value["arm"], value["measure"], tuple(chosen), least, most)
