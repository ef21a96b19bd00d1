"""Functions from the user's own files, under the directory that the operator allows.

User code has the trust of the worker: the directory check keeps a spec from naming other files; it is no sandbox.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os.path
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.jobs.paths import PathOutside, confine, split_entry
from workers.training.errors import CodeError, ConfigInvalid


def load_function(entry: str, code_dir: Path | None) -> Callable[..., Any]:
    """The function that ``file.py:function`` names; its file is imported once per process.

    Files beside it can be imported by it, as with ``python file.py``.

    Raises:
        ConfigInvalid: user code is off, the path is not allowed, or there is no such function.
        CodeError: importing the file raised.
    """
    if code_dir is None:
        raise ConfigInvalid("user code is off: the operator allows it by setting SMARTFRZ_CODE_DIR")
    try:
        file, name = split_entry(entry)
        path = confine(file, code_dir)
    except PathOutside as error:
        raise ConfigInvalid(f"entry {entry!r}: {error}") from error
    except ValueError as error:
        raise ConfigInvalid(str(error)) from error
    if not os.path.isfile(path):
        raise ConfigInvalid(f"entry {entry!r}: no file {file} in the code directory")
    function = getattr(_import(path, entry), name, None)
    if not callable(function):
        raise ConfigInvalid(f"entry {entry!r}: {file} defines no function {name}")
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., Any], entry: str, arguments: Mapping[str, Any]) -> Any:
    """Call the user's function.

    Raises:
        CodeError: it raised; the cause is chained, so its traceback reaches the log.
    """
    try:
        return function(**arguments)
    except Exception as error:
        raise CodeError(f"{entry} raised {type(error).__name__}: {error}") from error


def _import(path: Path, entry: str) -> ModuleType:
    name = f"smartfrz_user_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigInvalid(f"entry {entry!r}: {path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise CodeError(f"importing {path.name} raised {type(error).__name__}: {error}") from error
    return module
