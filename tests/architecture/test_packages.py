"""Every folder with modules is a package: the build finds no other (pyproject: namespaces = false)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_of_modules_has_an_init() -> None:
    folders = {
        path.parent
        for top in ("api", "benchmarks", "client", "freezer", "workers")
        for path in (ROOT / top).rglob("*.py")
    }
    assert len(folders) > 10
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
