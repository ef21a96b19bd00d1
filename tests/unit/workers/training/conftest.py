"""Settings without a store, and the data packages."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.packages import DataPackageMissing, locate
from workers.settings import Settings

FETCHED = ("mnist5k", "20newsgroups", "minilm-l6", "rotten-tomatoes", "bbc-news", "efficientnet-lite0")
"""What `make unit` fetches."""


@pytest.fixture
def local(tmp_path: Path, packages_dir: Path) -> Settings:
    """Settings of an installation with an empty code and an empty data directory."""
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    return Settings(
        home=tmp_path / "home", code_dir=tmp_path / "code", data_dir=tmp_path / "data", packages_dir=packages_dir
    )


@pytest.fixture
def need(packages_dir: Path) -> Callable[[str], Path]:
    """Folder of a data package; the absence of one that `make unit` fetches is a failure in CI, else a skip."""

    def folder(name: str) -> Path:
        try:
            return locate(name, packages_dir)
        except DataPackageMissing as error:
            if os.environ.get("CI") and name in FETCHED:
                pytest.fail(str(error))
            pytest.skip(str(error))

    return folder


@pytest.fixture
def minilm(need: Callable[[str], Path]) -> Path:
    """Folder of the MiniLM package."""
    return need("minilm-l6")
