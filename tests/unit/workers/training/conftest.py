"""Settings without a store, and the data packages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from workers.settings import Settings


@pytest.fixture
def local(tmp_path: Path, packages_dir: Path) -> Settings:
    """Settings of an installation with an empty code and an empty data directory."""
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    return Settings(
        home=tmp_path / "home", code_dir=tmp_path / "code", data_dir=tmp_path / "data", packages_dir=packages_dir
    )


@pytest.fixture
def minilm(need: Callable[[str], Path]) -> Path:
    """Folder of the MiniLM package."""
    return need("minilm-l6")
