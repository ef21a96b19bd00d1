"""What the attempts of a job left on disk: logs, metrics, artifacts. Blocking; called in a thread."""

from __future__ import annotations

import codecs
import contextlib
import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from api.series import Row, merge_attempts, parse_rows
from workers.jobs.layout import AttemptFiles, JobFiles
from workers.jobs.paths import PathOutside, confine

MAX_LOG_BYTES = 256 * 1024
"""Largest piece of a log in one answer."""

_RANK_LOG = re.compile(r"rank(\d+)\.log")


class NoSuchFile(LookupError):
    """The job has no such attempt, rank or artifact; the message says which."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a log, cut at whole characters. ``next_after`` is the byte at which to go on."""

    attempt: int | None
    attempts: tuple[int, ...]
    ranks: tuple[int, ...]
    offset: int
    next_after: int
    size: int
    content: str


@dataclass(frozen=True, slots=True)
class Artifact:
    path: str
    size: int
    modified_at: float


def attempt_numbers(files: JobFiles) -> dict[int, AttemptFiles]:
    """Attempts that left files, by the number in the folder's name, oldest first."""
    found = {}
    for attempt in files.attempts():
        number = attempt.root.name.removeprefix("attempt-")
        if number.isdigit():
            found[int(number)] = attempt
    return dict(sorted(found.items()))


def read_metrics(files: JobFiles) -> tuple[Iterator[Row], int]:
    """The rows of all attempts as one history, read as they are asked for, and about how many rows will come."""
    attempts, lines = [], 0
    for attempt in attempt_numbers(files).values():
        for first in _rows(attempt.metrics):
            lines += _count_lines(attempt.metrics)
            attempts.append((first["step"], _rows(attempt.metrics)))
            break
    return merge_attempts(attempts), lines


def _rows(path: Path) -> Iterator[Row]:
    """Rows of a file; none where there is no file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        yield from parse_rows(stream)


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def read_log(
    files: JobFiles, processes: int, *, rank: int, attempt: int | None, tail: int | None, after: int | None
) -> LogPiece:
    """The last ``tail`` lines, or what follows byte ``after``; the newest attempt unless another is named.

    Before the first attempt, and before the rank writes, the log is empty, so that one can follow a job from the moment
    it is queued.

    Args:
        processes: ranks that the job has.

    Raises:
        NoSuchFile: no such attempt, or a rank that the job never has.
    """
    if rank >= processes:
        raise NoSuchFile(f"no log of rank {rank}: the job has {processes}, counted from 0")
    known = attempt_numbers(files)
    if attempt is not None and attempt not in known:
        raise NoSuchFile(f"no attempt {attempt}; there are: {', '.join(map(str, known)) or 'none yet'}")
    number = attempt if attempt is not None else max(known, default=None)
    if number is None:
        return LogPiece(None, (), (), 0, 0, 0, "")
    folder = known[number].logs
    ranks = sorted(int(m[1]) for path in folder.glob("rank*.log") if (m := _RANK_LOG.fullmatch(path.name)))
    try:
        start, end, size, content = _read_piece(known[number].log(rank), tail=tail, after=after)
    except FileNotFoundError:
        start = end = size = 0
        content = ""
    return LogPiece(number, tuple(known), tuple(ranks), start, end, size, content)


def _read_piece(path: Path, *, tail: int | None, after: int | None) -> tuple[int, int, int, str]:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        start = min(after, size) if after is not None else max(0, size - MAX_LOG_BYTES)
        stream.seek(start)
        data = stream.read(MAX_LOG_BYTES)
    if after is None:
        cut = _tail_start(data, tail or 100)
        start, data = start + cut, data[cut:]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    content = decoder.decode(data, final=False)
    pending = len(decoder.getstate()[0])  # the first bytes of a character whose rest is not there yet
    return start, start + len(data) - pending, size, content


def _tail_start(data: bytes, lines: int) -> int:
    """Where the last ``lines`` lines begin."""
    position = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        position = data.rfind(b"\n", 0, max(position, 0))
        if position < 0:
            return 0
    return position + 1


def list_artifacts(files: JobFiles) -> list[Artifact]:
    """Files of the newest attempt that has any, by path."""
    folder = _artifacts(files)
    if folder is None:
        return []
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
            stat = path.stat()
            found.append(Artifact(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime))
    return found


def find_artifact(files: JobFiles, path: str) -> Path:
    """The file of that artifact.

    Raises:
        NoSuchFile: there is none, or the path leads out of the artifacts.
    """
    folder = _artifacts(files)
    missing = NoSuchFile(f"no artifact {path!r}")
    if folder is None:
        raise missing
    try:
        found = confine(path, folder)
    except PathOutside as error:
        raise missing from error
    if not os.path.isfile(found) or any(part.startswith(".") for part in found.relative_to(folder.resolve()).parts):
        raise missing
    return found


def _artifacts(files: JobFiles) -> Path | None:
    for attempt in reversed(attempt_numbers(files).values()):
        folder = attempt.artifacts
        if folder.is_dir() and any(path.is_file() for path in folder.rglob("*")):
            return folder
    return None
