"""Fixtures for all tests: a real store, a fresh prefix in it for each test, settings, and the data packages."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from workers.embedded import EmbeddedServer
from workers.packages import PACKAGES, DataPackageMissing, locate
from workers.settings import Settings

FETCHED = ("mnist5k", "20newsgroups", "minilm-l6", "rotten-tomatoes", "bbc-news", "efficientnet-lite0")
"""What `make unit` fetches."""


class StoreUrl(NamedTuple):
    """A place in a real store that no other test touches."""

    url: str
    prefix: str


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a real server, the binary that the embedded mode runs."""
    home = Path(tempfile.mkdtemp(prefix="sfz-test-"))
    server = EmbeddedServer(home, durable=False, maxmemory_bytes=256 * 2**20)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def store_url(valkey: str) -> StoreUrl:
    return StoreUrl(valkey, f"t{secrets.token_hex(6)}:")


@pytest.fixture(scope="session")
def packages_dir() -> Path:
    """Where ``smartfrz data fetch`` unpacks; a test skips, or fails in CI, when what it needs is missing."""
    default = Path(__file__).parent.parent / ".smartfrz" / "packages"
    return Path(os.environ.get("SMARTFRZ_PACKAGES_DIR", default)).absolute()


@pytest.fixture(scope="session")
def stand_in_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data packages as far as one can tell at submission: names and sizes without content (sparse files)."""
    folder = tmp_path_factory.mktemp("packages")
    for package in PACKAGES.values():
        (folder / package.name).mkdir()
        for member in package.members:
            with open(folder / package.name / member.name, "wb") as stream:
                stream.truncate(member.size)
    return folder


@pytest.fixture(scope="session")
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
def settings(tmp_path: Path, store_url: StoreUrl, packages_dir: Path) -> Settings:
    """Settings of an installation of this test's own, with short times."""
    return Settings(
        home=tmp_path / "home",
        redis_url=store_url.url,
        window_redis_url=store_url.url,
        key_prefix=store_url.prefix,
        packages_dir=packages_dir,
        lease_seconds=3.0,
        renew_seconds=0.5,
        reap_seconds=0.3,
        stop_grace_seconds=10.0,
        kill_grace_seconds=2.0,
    )
