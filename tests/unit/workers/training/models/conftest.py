"""Settings without a store, and the data packages."""

import os
from pathlib import Path

import pytest

from workers.packages import DataPackageMissing, locate
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
def minilm(packages_dir: Path) -> Path:
    """Folder of the MiniLM package; its absence is a failure in CI and a skip elsewhere."""
    try:
        return locate("minilm-l6", packages_dir)
    except DataPackageMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
