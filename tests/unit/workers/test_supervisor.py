"""The supervisor: its children are real processes, some of them stand-ins that do the least that is asked of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import StoreUrl
from workers._children import LONGEST_PAUSE, MANY_DEATHS, TOLD_EVERY, Keeper, ProcessChild, pause_before, tells
from workers.embedded import EmbeddedServer
from workers.redis_store import RedisJobStore
from workers.settings import Settings
from workers.supervisor import Supervisor, SupervisorError, child_environment, free_port

API = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *args): pass
print("api up", flush=True)
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""

WORKER = """
import os, signal, socket, sys, time
from workers.jobs.record import WorkerInfo
from workers.redis_store import RedisJobStore
from workers.settings import Settings
settings = Settings()
store = RedisJobStore(settings.redis_url, settings.key_prefix)
name = f"{sys.argv[1]}-{os.getpid()}"
info = WorkerInfo(id=name, host=socket.gethostname(), pid=os.getpid(), started_at=1, heartbeat_at=1)
def end(*_):
    (settings.home / f"told-{os.getpid()}").touch()
    deadline = time.monotonic() + 10
    while len(list(settings.home.glob("told-*"))) < int(sys.argv[2]):  # all workers are told before one is waited for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    store.ping()  # the store must outlive us
    print("ended in order", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
store.put_worker(info, 60)
time.sleep(600)
"""


def stand_ins(host: str, port: int, workers: Sequence[str]) -> Mapping[str, Sequence[str]]:
    api = [sys.executable, "-c", API, host, str(port)]
    return {"api": api} | {name: [sys.executable, "-c", WORKER, name, str(len(workers))] for name in workers}


def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


class TestWithStandIns:
    def test_up_restarts_and_down(self, home: Path) -> None:
        supervisor = Supervisor(Settings(home=home), "127.0.0.1", 0, 1, commands=stand_ins)
        with supervisor:
            pids = supervisor.pids
            assert sorted(pids) == ["api", "store", "w1", "windows"]
            assert serves(supervisor.url)
            assert json.loads((home / "server.json").read_text())["url"] == supervisor.url
            for name in ("api", "w1", "store"):
                os.kill(pids[name], signal.SIGKILL)
            until(lambda: all(supervisor.pids[n] != pids[n] for n in ("api", "w1", "store")))
            until(lambda: serves(supervisor.url))
            until(lambda: Path(f"/proc/{supervisor.pids['w1']}").exists())
            assert supervisor.pids["windows"] == pids["windows"]
            store = RedisJobStore(supervisor._store_url, "smartfrz:")
            until(lambda: any(w.pid == supervisor.pids["w1"] for w in store.workers()))
            store.close()
            assert supervisor.failing == []
            pids = supervisor.pids
        assert all(gone(pid) for pid in pids.values())
        assert (home / "logs" / "w1.log").read_text().splitlines() == ["ended in order"]
        assert not (home / "server.json").exists()

    def test_workers_end_side_by_side_and_before_the_stores(self, home: Path) -> None:
        with Supervisor(Settings(home=home), "127.0.0.1", 0, 2, commands=stand_ins):
            pass
        for name in ("w1", "w2"):
            assert (home / "logs" / f"{name}.log").read_text().splitlines() == ["ended in order"]

    def test_a_store_by_url_is_used_and_left_alone(self, home: Path, store_url: StoreUrl) -> None:
        settings = Settings(home=home, redis_url=store_url.url, key_prefix=store_url.prefix)
        with Supervisor(settings, "127.0.0.1", 0, 2, commands=stand_ins) as supervisor:
            assert len(supervisor.pids) == 3
            assert not (home / "store").exists()
            store = RedisJobStore(*store_url)
            assert len(store.workers()) == 2
        store.ping()
        store.close()

    def test_a_child_that_cannot_start_ends_it_all_with_its_words(self, home: Path) -> None:
        def broken(host: str, port: int, workers: Sequence[str]) -> Mapping[str, Sequence[str]]:
            return {**stand_ins(host, port, workers), "w1": [sys.executable, "-c", "raise SystemExit('no disk left')"]}

        supervisor = Supervisor(Settings(home=home), "127.0.0.1", 0, 1, commands=broken)
        with pytest.raises(SupervisorError, match="no disk left"):
            supervisor.start()
        assert not (home / "server.json").exists()
        assert all(gone(pid) for pid in supervisor.pids.values())
        with EmbeddedServer(home / "store", durable=True):
            pass  # its lock is free again

    def test_two_in_one_home_is_refused(self, home: Path) -> None:
        with Supervisor(Settings(home=home), "127.0.0.1", 0, 0, commands=stand_ins) as first:
            with pytest.raises(SupervisorError, match="in use"):
                Supervisor(Settings(home=home), "127.0.0.1", 0, 0, commands=stand_ins).start()
            assert serves(first.url)
            assert (home / "server.json").exists()

    def test_a_worker_that_does_not_stop_is_killed(self, home: Path, store_url: StoreUrl) -> None:
        def deaf(host: str, port: int, workers: Sequence[str]) -> Mapping[str, Sequence[str]]:
            worker = WORKER.replace("SIGTERM, end)", "SIGTERM, signal.SIG_IGN)")
            return {**stand_ins(host, port, workers), workers[0]: [sys.executable, "-c", worker, "w1", "1"]}

        settings = Settings(home=home, redis_url=store_url.url, key_prefix=store_url.prefix)
        supervisor = Supervisor(settings, "127.0.0.1", 0, 1, commands=deaf).start()
        supervisor._workers[0].stop_seconds = 0.2
        pids = supervisor.pids
        supervisor.stop()
        assert all(gone(pid) for pid in pids.values())


OWNER = """
import sys, time
from pathlib import Path
from tests.unit.workers.test_supervisor import stand_ins
from workers.settings import Settings
from workers.supervisor import Supervisor
supervisor = Supervisor(Settings(home=Path(sys.argv[1])), "127.0.0.1", 0, 1, commands=stand_ins).start()
print(*supervisor.pids.values(), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux only")
def test_a_supervisor_killed_by_9_leaves_nothing_behind(home: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    owner.stdout.close()
    assert len(pids) == 4
    assert not any(gone(pid) for pid in pids)
    owner.kill()
    owner.wait()
    until(lambda: all(gone(pid) for pid in pids))
    for name in ("store", "windows"):
        old_socket = Path((home / name / "socket-dir").read_text())
        with EmbeddedServer(home / name, durable=True):
            assert not old_socket.exists()


def test_the_real_service_comes_up_and_goes(home: Path) -> None:
    with Supervisor(Settings(home=home), "127.0.0.1", 0, 1) as supervisor:
        assert serves(supervisor.url)
        pids = supervisor.pids
        family = [p.pid for pid in pids.values() for p in psutil.Process(pid).children(recursive=True)]
        assert (home / "admin.key").stat().st_mode & 0o777 == 0o600
    assert all(gone(pid) for pid in [*pids.values(), *family])


class TestKeeper:
    def test_pauses_grow_up_to_a_bound(self) -> None:
        pauses = [pause_before(n) for n in range(1, MANY_DEATHS + 1)]
        assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
        assert {pause_before(n) for n in (MANY_DEATHS + 1, 10**6)} == {LONGEST_PAUSE}

    def test_many_deaths_are_told_now_and_then(self) -> None:
        told = [n for n in range(1, 60) if tells(n)]
        assert told == [MANY_DEATHS, MANY_DEATHS + TOLD_EVERY, MANY_DEATHS + 2 * TOLD_EVERY]

    def test_what_keeps_dying_is_tried_until_it_stays_and_stops_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As with a store on a full disk, or an API whose port somebody else has."""
        monkeypatch.setattr("workers._children.LONGEST_PAUSE", 0.001)
        monkeypatch.setattr("workers._children.LOOK_SECONDS", 0.01)
        room, up, log = tmp_path / "room", tmp_path / "up", tmp_path / "c.log"
        command = ["sh", "-c", f"[ -e {room} ] && touch {up} && exec sleep 600; echo 'no space left'; exit 1"]
        child = ProcessChild("c", command, dict(os.environ), log)
        other = ProcessChild("other", ["sleep", "600"], dict(os.environ), tmp_path / "other.log")
        keeper = Keeper()
        for one in (child, other):
            one.start()
            keeper.keep(one)
        assert other.process is not None
        pid = other.process.pid
        keeper.start()
        until(lambda: len(log.read_text().split("\n")) > MANY_DEATHS + 2, 60)
        assert keeper.failing() == ["c"]
        room.touch()
        until(up.exists, 60)
        assert keeper.restarts == log.read_text().count("no space left")
        assert keeper.failing() == ["c"], "it has to prove itself first"
        monkeypatch.setattr("workers._children.QUICK_SECONDS", 0.0)
        assert keeper.failing() == []
        assert other.process.pid == pid
        keeper.hold()
        for one in (child, other):
            one.stop()
        keeper.close()
        (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert f"c died {MANY_DEATHS} times in a row" in told
        assert "no space left" in told
        assert len(caplog.records) == MANY_DEATHS, "a warning for each of the first, then one line for many"

    def test_restarts_nothing_once_held(self, tmp_path: Path) -> None:
        child = ProcessChild("c", ["sleep", "600"], dict(os.environ), tmp_path / "c.log")
        keeper = Keeper()
        child.start()
        keeper.keep(child)
        keeper.start()
        keeper.hold()
        child.stop()
        time.sleep(0.8)  # longer than the first pause: nothing may happen in it
        keeper.close()
        assert keeper.restarts == 0


class TestEnvironment:
    def test_a_child_reads_the_same_settings(self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        settings = Settings(home=Path("here"), lease_seconds=70.0, code_dir=None)
        base = {"PATH": "/bin", "SMARTFRZ_CODE_DIR": "/elsewhere", "SMARTFRZ_ADMIN_KEY_FILE": "/k"}
        environment = child_environment(settings, base, "redis://a", "redis://b")
        assert environment["PATH"] == "/bin"
        assert environment["SMARTFRZ_ADMIN_KEY_FILE"] == "/k"
        for name in [name for name in os.environ if name.startswith("SMARTFRZ_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        urls = {"redis_url": "redis://a", "window_redis_url": "redis://b"}
        assert Settings() == settings.model_copy(update={"home": tmp_path / "here", **urls})

    def test_a_taken_port_is_said(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(SupervisorError, match=str(port)):
                free_port("127.0.0.1", port)
        assert free_port("127.0.0.1", port) == port
        assert free_port("127.0.0.1", 0) > 0

    def test_wildcards_are_reached_by_loopback(self, home: Path) -> None:
        assert Supervisor(Settings(home=home), "0.0.0.0", 80, 0).url == "http://127.0.0.1:80"
        assert Supervisor(Settings(home=home), "::", 80, 0).url == "http://[::1]:80"
        assert Supervisor(Settings(home=home), "localhost", 80, 0).url == "http://localhost:80"
