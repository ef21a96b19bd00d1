"""Who may load what, proven in fresh interpreters."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "client", "freezer", "workers", "benchmarks")
TORCH_FREE = ("api.app", "client", "client.cli", "workers.celery_app", "workers.jobs.catalog", "workers.supervisor")
SERVICE = {"fastapi", "celery", "redis", "pydantic", "httpx", "typer"}


def loaded_by(module: str) -> set[str]:
    """Top-level names in ``sys.modules`` after importing ``module`` in a fresh interpreter."""
    code = f"import sys, json, {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_service_side_loads_no_torch(module: str) -> None:
    assert not loaded_by(module) & {"torch", "transformers", "numpy"}


def test_the_library_loads_no_service() -> None:
    loaded = loaded_by("freezer.freezer")
    assert "torch" in loaded
    assert not loaded & SERVICE


def test_settings_of_the_library_load_no_torch() -> None:
    assert "torch" not in loaded_by("freezer.config, freezer.options, freezer.errors, freezer.windows")


def test_lazy_names_of_the_library_resolve() -> None:
    import freezer

    for name in freezer.__all__:
        assert getattr(freezer, name).__name__ == name


def source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_files_have_one_job() -> None:
    """A file over 400 lines is asking to be two."""
    long = {
        str(path.relative_to(ROOT)): n for path in source_files() if (n := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT)) for path in source_files() if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
