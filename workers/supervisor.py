"""The whole service on one machine: stores, API and workers as children of this process, gone when it goes.

::

    supervisor = Supervisor(Settings(), "127.0.0.1", 8080, workers=1)
    supervisor.start()     # returns when the API answers and every worker has registered
    ...
    supervisor.stop()      # workers hand their jobs back, then API, then stores
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from workers._children import Child, Keeper, ProcessChild, StoreChild
from workers.embedded import EmbeddedError, EmbeddedServer
from workers.jobs.errors import StoreUnavailable
from workers.jobs.layout import write_atomic
from workers.redis_store import RedisJobStore
from workers.settings import Settings

READY_SECONDS = 90.0
API_STOP_SECONDS = 15.0
WINDOW_BYTES = 256 * 2**20
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}

Commands = Callable[[str, int, Sequence[str]], Mapping[str, Sequence[str]]]
"""``(host, port, names of the workers) -> {"api": command, <worker>: command, ...}``."""


class SupervisorError(RuntimeError):
    """The service cannot start; the message says why and what to do."""


def service_commands(host: str, port: int, workers: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """What is really run."""
    from workers.celery_app import worker_command

    api = [sys.executable, "-m", "api", "--host", host, "--port", str(port)]
    return {"api": api} | {name: worker_command(name) for name in workers}


class Supervisor:
    """One installation in one process tree.

    Args:
        settings: ``redis_url`` set: that store is used, and none is started.
        host, port: where the API listens; port 0 takes a free one.
        workers: how many, each running one job at a time.
        commands: what to run; tests put stand-ins here.

    Start it from the main thread: the kernel ends the children when the thread that started them ends.
    """

    def __init__(
        self, settings: Settings, host: str, port: int, workers: int, *, commands: Commands = service_commands
    ) -> None:
        self.home = settings.home.absolute()
        self._settings, self._host, self._port, self._commands = settings, host, port, commands
        suffix = "" if settings.redis_url is None else f"-{os.getpid()}"  # others may use the same store
        self._worker_names = [f"w{n}{suffix}" for n in range(1, workers + 1)]
        self._keeper = Keeper()
        self._stores: list[StoreChild] = []
        self._api: ProcessChild | None = None
        self._workers: list[ProcessChild] = []
        self._store_url = ""
        self._announced = False

    @property
    def url(self) -> str:
        """Base URL of the API, for a client on this machine."""
        host = _WILDCARDS.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        processes = {store.name: store.server.process for store in self._stores}
        processes |= {child.name: child.process for child in (self._api, *self._workers) if child is not None}
        return {name: process.pid for name, process in processes.items() if process is not None}

    @property
    def failing(self) -> Sequence[str]:
        """Children that die again and again soon after their start; they are still tried."""
        return self._keeper.failing()

    @property
    def workers(self) -> Sequence[str]:
        """Names of the workers."""
        return tuple(self._worker_names)

    def start(self) -> Self:
        """Start everything and wait until it serves.

        Raises:
            SupervisorError: something did not come up; nothing is left running.
        """
        try:
            self._port = free_port(self._host, self._port)
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keeper.start()
            environment = self._start_stores()
            self._start_processes(environment)
            self._await_ready()
            write_atomic(self.home / "server.json", json.dumps({"url": self.url, "pid": os.getpid()}) + "\n")
            self._announced = True
        except EmbeddedError as error:
            self.stop()
            raise SupervisorError(str(error)) from error
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Workers hand back their jobs (within the grace period), then the API, then the stores. Safe to repeat."""
        self._keeper.hold()
        if self._announced:
            (self.home / "server.json").unlink(missing_ok=True)
            self._announced = False
        for worker in self._workers:
            worker.order_stop()
        children: list[Child | None] = [*self._workers, self._api, *reversed(self._stores)]
        for child in children:
            if child is not None:
                child.stop()
        self._keeper.close()

    def _start_stores(self) -> dict[str, str]:
        """Start the stores that are ours; the environment of the other children."""
        settings, logs = self._settings, self.home / "logs"
        if settings.redis_url is None:
            store = EmbeddedServer(self.home / "store", durable=True, log=logs / "store.log")
            self._run_store("store", store)
            self._store_url = window_url = store.url
            if settings.window_redis_url is None:
                windows = EmbeddedServer(
                    self.home / "windows", durable=False, maxmemory_bytes=WINDOW_BYTES, log=logs / "windows.log"
                )
                self._run_store("windows", windows)
                window_url = windows.url
        else:
            self._store_url = window_url = settings.redis_url
        return child_environment(settings, os.environ, self._store_url, settings.window_redis_url or window_url)

    def _run_store(self, name: str, server: EmbeddedServer) -> None:
        child = StoreChild(name, server)
        self._stores.append(child)
        child.start()
        self._keeper.keep(child)

    def _start_processes(self, environment: Mapping[str, str]) -> None:
        commands, logs = self._commands(self._host, self._port, self._worker_names), self.home / "logs"
        api_log = logs / "api.log"
        self._api = ProcessChild("api", commands["api"], environment, api_log, stop_seconds=API_STOP_SECONDS)
        # From the order to stop: checkpoint within the grace period, else TERM, else KILL, and some time to say so.
        patience = self._settings.stop_grace_seconds + self._settings.kill_grace_seconds + 15.0
        for name in self._worker_names:
            # Killed, not asked: with the supervisor the store is gone, and a worker's guardian ends its ranks.
            self._workers.append(
                ProcessChild(name, commands[name], environment, logs / f"{name}.log", signal.SIGKILL, patience)
            )
        for child in (self._api, *self._workers):
            child.start()

    def _await_ready(self) -> None:
        """Wait for ``/readyz`` and for every worker's registration; then watch the children."""
        assert self._api is not None
        deadline = time.monotonic() + READY_SECONDS
        store = RedisJobStore(self._store_url, self._settings.key_prefix)
        try:
            missing = ["the API"]
            while missing:
                for child in (self._api, *self._workers):
                    if not child.alive():
                        raise SupervisorError(child.story())
                missing = [] if answers(f"{self.url}/readyz") else [f"the API (log: {self._api.log})"]
                missing += [f"worker {worker.name} (log: {worker.log})" for worker in self._unregistered(store)]
                if missing and time.monotonic() > deadline:
                    raise SupervisorError(f"not ready after {READY_SECONDS:.0f} s: {', '.join(missing)}")
                if missing:
                    time.sleep(0.05)
        finally:
            store.close()
        for child in (self._api, *self._workers):
            self._keeper.keep(child)

    def _unregistered(self, store: RedisJobStore) -> list[ProcessChild]:
        try:
            here = {worker.pid for worker in store.workers() if worker.host == socket.gethostname()}
        except StoreUnavailable:
            here = set()
        return [child for child in self._workers if child.process is not None and child.process.pid not in here]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def child_environment(
    settings: Settings, base: Mapping[str, str], redis_url: str, window_redis_url: str
) -> dict[str, str]:
    """The environment in which a child reads the same settings: paths absolute, the stores' URLs filled in."""
    values = settings.model_dump() | {"redis_url": redis_url, "window_redis_url": window_redis_url}
    values |= {"redis_host": None, "window_redis_host": None, "redis_password_file": None}
    environment = dict(base) | {"PYTHONUNBUFFERED": "1"}
    for name, value in values.items():
        variable = f"SMARTFRZ_{name.upper()}"
        environment.pop(variable, None)
        if value is not None:
            environment[variable] = str(value.absolute() if isinstance(value, Path) else value)
    return environment


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        SupervisorError: it is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        hint = "; choose another port, 0 takes a free one" if port else ""
        raise SupervisorError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error


def answers(url: str) -> bool:
    """Whether a GET is answered with 200. Never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5.0) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
