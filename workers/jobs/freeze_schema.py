"""The freeze section of a spec: JSON Schema and checks, derived from the fields of ``FreezeConfig``."""

from __future__ import annotations

import ast
import functools
import inspect
import os.path
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from freezer.options import OPTION_SCHEMAS, check_options
from workers.jobs.errors import Problem
from workers.jobs.paths import PathOutside, confine

_ADAPTER: TypeAdapter[FreezeConfig] = TypeAdapter(FreezeConfig)
_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@functools.cache
def _descriptions() -> dict[str, str]:
    """The string below each field; empty where the source is not at hand."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(FreezeConfig))).body[0]
    except (OSError, SyntaxError):
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, below in zip(body.body, body.body[1:], strict=False):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.replace("``", "`").split())
    return found


def freeze_schema(policy: str, description: str) -> dict[str, Any]:
    """JSON Schema of the freeze section that chooses ``policy``."""
    schema = _ADAPTER.json_schema()
    properties: dict[str, Any] = schema["properties"]
    for name, value in properties.items():
        value.pop("title", None)
        if name in _descriptions():
            value["description"] = _descriptions()[name]
    properties["policy"] |= {"const": policy, "description": description}
    if policy in OPTION_SCHEMAS:
        properties["options"] = {
            "type": "object",
            "properties": dict(OPTION_SCHEMAS[policy]),
            "additionalProperties": False,
            "default": {},
            "description": _descriptions().get("options", ""),
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def freeze_problems(section: dict[str, Any], policies: tuple[str, ...], data_dir: Path | None) -> list[Problem]:
    """Every fault of a freeze section, with pointers from ``/freeze``."""
    problems = []
    known = FreezeConfig.__dataclass_fields__
    for name in section:
        if name not in known:
            text = f"unknown field {name!r}; known: {', '.join(sorted(known))}"
            problems.append(Problem(f"/freeze/{name}", text, "UNKNOWN_FIELD"))
    policy = section.get("policy")
    if isinstance(policy, str) and policy not in policies:
        text = f"unknown policy {policy!r}; known: {', '.join(policies)}"
        problems.append(Problem("/freeze/policy", text, "UNKNOWN_POLICY"))
    values = {name: value for name, value in section.items() if name in known}
    try:
        # Strict checks of JSON take an array for a tuple, which strict checks of Python values refuse.
        config = _ADAPTER.validate_json(_JSON.dump_json(values), strict=True)
        check_options(config)
        confined(config, data_dir)
    except ValidationError as error:
        problems += [_problem(fault) for fault in error.errors()]
    except PathOutside as error:
        problems.append(Problem("/freeze/options/weights", str(error), "PATH_OUTSIDE"))
    except ConfigError as error:
        problems.append(Problem(f"/freeze{error.pointer}", str(error), "INVALID_FREEZE"))
    return problems


def _problem(fault: Any) -> Problem:
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return Problem(f"/freeze{cause.pointer}", str(cause), "INVALID_FREEZE")
    where = "/".join(str(part) for part in fault["loc"])
    return Problem(f"/freeze/{where}", fault["msg"], "INVALID_FREEZE")


def confined(config: FreezeConfig, data_dir: Path | None) -> FreezeConfig:
    """``config`` with ``options.weights``, if given, as an absolute path inside ``data_dir``.

    Raises:
        PathOutside: it leads out of the data directory.
        ConfigError: there is no data directory, or no such file.
    """
    weights = config.options.get("weights")
    if weights is None:
        return config
    if data_dir is None:
        text = "user data is off: the operator allows it by setting SMARTFRZ_DATA_DIR"
        raise ConfigError(text, "/options/weights")
    path = confine(str(weights), data_dir)
    if not os.path.isfile(path):
        raise ConfigError(f"there is no file {weights!r} in the data directory", "/options/weights")
    return replace(config, options={**config.options, "weights": str(path)})
