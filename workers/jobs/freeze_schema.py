"""The freeze section of a spec: JSON Schema and checks, derived from the fields of ``FreezeConfig``."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import Any

from pydantic import TypeAdapter, ValidationError

from freezer.config import FreezeConfig
from freezer.errors import ConfigError
from workers.jobs.errors import Problem

_ADAPTER: TypeAdapter[FreezeConfig] = TypeAdapter(FreezeConfig)


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
    return {"type": "object", "properties": properties, "additionalProperties": False}


def freeze_problems(section: dict[str, Any], policies: tuple[str, ...]) -> list[Problem]:
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
    try:
        _ADAPTER.validate_json(_as_json({name: value for name, value in section.items() if name in known}), strict=True)
    except ValidationError as error:
        for fault in error.errors():
            cause = fault.get("ctx", {}).get("error")
            if isinstance(cause, ConfigError):
                problems.append(Problem(f"/freeze{cause.pointer}", str(cause), "INVALID_FREEZE"))
            else:
                where = "/".join(str(part) for part in fault["loc"])
                problems.append(Problem(f"/freeze/{where}", fault["msg"], "INVALID_FREEZE"))
    return problems


def _as_json(values: dict[str, Any]) -> bytes:
    # Strict checks of JSON take an array for a tuple, which strict checks of Python values refuse.
    return TypeAdapter(dict[str, Any]).dump_json(values)
