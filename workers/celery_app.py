"""The Celery application: ``celery -A workers.celery_app worker``. Loads no torch and connects to nothing on import.

Celery only carries wake-ups. Its own guarantees do not fit jobs of hours (late acks with a visibility timeout run them
twice, early acks lose them), so messages are acknowledged early and the job record is the truth.
"""

from __future__ import annotations

import logging
import sys
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from celery import Celery
from kombu.exceptions import OperationalError

from workers.settings import Settings

logger = logging.getLogger(__name__)

TASK = "smartfrz.work"
QUEUE = "smartfrz"
DAYS_30 = 30 * 24 * 3600


def broker_url(url: str) -> str:
    """The broker URL for Celery: ``unix://:PW@/path?db=0`` of redis-py becomes ``redis+socket://:PW@/path``."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    login = f":{quote(unquote(parts.password), safe='')}@" if parts.password else ""
    query = f"?{parts.query.replace('db=', 'virtual_host=')}" if parts.query else ""
    return f"redis+socket://{login}{parts.path}{query}"


def make_celery(settings: Settings) -> Celery:
    """The application for one store.

    Raises:
        ValueError: no store is configured.
    """
    if settings.redis_url is None:
        raise ValueError("no store is configured: set SMARTFRZ_REDIS_URL, or use `smartfrz up` for the embedded one")
    app = Celery("smartfrz", broker=broker_url(settings.redis_url), include=["workers.tasks"], set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": DAYS_30,
            "socket_timeout": 30.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": f"{settings.key_prefix}celery:",
            # A wake-up that cannot be sent is dropped at once: by default kombu holds its sender up for six seconds.
            **{"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
        },
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_concurrency=1,
        worker_direct=True,  # a queue of its own, for the worker's own wake-ups
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
    )
    return app


class CeleryWakeUp:
    """:class:`workers.jobs.ports.WakeUp` by a Celery message. A message that cannot be sent is only logged: the job
    is in the record, and the reaper or a worker's own timer finds it."""

    def __init__(self, app: Celery, queue: str = QUEUE) -> None:
        self._app, self._queue = app, queue

    def wake(self) -> None:
        try:
            self._app.send_task(TASK, queue=self._queue, ignore_result=True, retry=False)
        except (OperationalError, OSError) as error:
            logger.warning("wake-up not sent: %s", error)


def worker_command(node: str) -> list[str]:
    """Command line of one worker; ``node`` tells workers of one host apart."""
    return [
        *(sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker"),
        *("--hostname", f"{node}@%h", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
    ]


def __getattr__(name: str) -> Any:
    """``app``, built from the environment at its first use."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = make_celery(Settings())
    globals()["app"] = app
    return app
