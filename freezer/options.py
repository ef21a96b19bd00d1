"""What each built-in policy's options are, and whether they were given well. Standard library only, as the config."""

from __future__ import annotations

from typing import Any

from freezer.config import FreezeConfig
from freezer.errors import require

_LEARNED_OPTIONS: dict[str, Any] = {
    "weights": {"type": "string", "description": "Predictor weights (.safetensors); the shipped ones if absent."},
    "anneal": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "Let each unit's learning rate anneal ahead of the run's, first units first, as `freezeout` "
        "does with this `t0`; it replaces the job's schedule. 0: never. If absent: a job that trains a network from "
        "scratch with SGD on a falling schedule has 0.8, all others have 0.",
    },
}
OPTION_SCHEMAS: dict[str, dict[str, Any]] = {
    "smartfrz": _LEARNED_OPTIONS,
    "smartfrz-paper": {
        "weights": {"type": "string", "description": "Predictor weights (.safetensors). Required: none are shipped."},
    },
    "progress-only": _LEARNED_OPTIONS,
    "static": {
        "units": {"type": "array", "items": {"type": "string"}, "description": "Units to freeze."},
        "first": {"type": "integer", "minimum": 1, "description": "Freeze the first so many units instead."},
        "share": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Freeze the first blocks with at most this share of the forward FLOPs, at least one unit.",
        },
        "start": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Progress at which they freeze; 0 if absent: before the first step.",
        },
    },
    "linear": {
        "start": {"type": "number", "minimum": 0, "maximum": 1, "description": "Progress at which freezing begins."},
        "level": {"type": "number", "minimum": 0, "maximum": 1, "description": "Share of units frozen at the end."},
    },
    "freezeout": {
        "t0": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Progress at which the first unit freezes, before `how` shapes it; 0.8 if absent.",
        },
        "how": {
            "type": "string",
            "enum": ["linear", "squared", "cubic"],
            "description": "Shape of the freezing times over depth; cubic if absent.",
        },
        "scale": {
            "type": "boolean",
            "description": "Divide each unit's learning rate by its freezing time (all travel alike); on if absent.",
        },
    },
    "thaw-last": {
        "share": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Share of the forward FLOPs frozen until the thaw, from the input on; 0.67 if absent.",
        },
        "thaw": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Progress from which on all but the embeddings train; 0.8 if absent.",
        },
    },
    "autofreeze": {
        "intervals": {
            "type": "integer",
            "minimum": 2,
            "description": "Intervals a run over which gradients are summed, instead of decide_every.",
        },
    },
    "egeria": {
        "window": {
            "type": "integer",
            "minimum": 2,
            "description": "Stages over which plasticity is averaged and its slope taken; 3 if absent.",
        },
        "patience": {
            "type": "integer",
            "minimum": 1,
            "description": "Stages in a row with a slope below the tolerance that freeze the front block; 2 if absent.",
        },
        "tolerance": {
            "type": "number",
            "minimum": 0,
            "description": "Slope that counts as flat, as a share of the average plasticity a stage; 0.2 if absent.",
        },
        "reference_every": {
            "type": "integer",
            "minimum": 1,
            "description": "Stages between two int8 reference models; 1 if absent.",
        },
    },
    "random": {
        "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "Expected share of frozen unit-steps."},
    },
    "none": {},
}
"""JSON Schema of every option of every built-in policy."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
}


def check_options(config: FreezeConfig) -> None:
    """Check ``config.options`` against the built-in policy's schema; other policies check their own.

    Raises:
        ConfigError: unknown option, wrong type, out of range, or options that exclude each other.
    """
    schema = OPTION_SCHEMAS.get(config.policy)
    if schema is None:
        return
    for name, value in config.options.items():
        known = ", ".join(sorted(schema)) or "none"
        require(name in schema, f"/options/{name}", f"policy {config.policy!r} has no option {name!r}; known: {known}")
        _check_value(schema[name], value, f"/options/{name}")
    if config.policy == "static":
        given = sum(name in config.options for name in ("units", "first", "share"))
        require(given == 1, "/options", "policy 'static' needs exactly one of the options 'units', 'first' and 'share'")
    if config.policy == "autofreeze":
        both = "intervals" in config.options and config.decide_every is not None
        require(not both, "/options/intervals", "give 'intervals' or decide_every, not both")
    if config.policy == "smartfrz-paper":
        hint = (
            "policy 'smartfrz-paper' needs the option 'weights': none are shipped; train them with the predictor tools"
        )
        require("weights" in config.options, "/options/weights", hint)
        require(config.length == 30, "/window", "policy 'smartfrz-paper' reads windows of exactly 30 snapshots")
        require(config.samples == 1024, "/samples", "policy 'smartfrz-paper' reads exactly 1024 samples")


def _check_value(schema: dict[str, Any], value: Any, pointer: str) -> None:
    kind = schema["type"]
    fits = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
    require(fits, pointer, f"must be of type {kind}, not {type(value).__name__}")
    if kind == "array":
        for position, item in enumerate(value):
            _check_value(schema["items"], item, f"{pointer}/{position}")
    allowed = schema.get("enum", (value,))
    require(value in allowed, pointer, f"must be one of {', '.join(map(repr, allowed))}")
    low, high = schema.get("minimum"), schema.get("maximum")
    require(low is None or value >= low, pointer, f"must be at least {low}")
    require(high is None or value <= high, pointer, f"must be at most {high}")
