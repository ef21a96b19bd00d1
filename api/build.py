"""The application on the real ports: job store and windows on Redis, wake-ups by Celery, the reaper in a thread."""

from __future__ import annotations

import threading

from fastapi import FastAPI

from api.app import Background, create_app
from api.settings import ApiSettings
from workers.celery_app import CeleryWakeUp, make_celery
from workers.jobs.ports import WakeUp
from workers.reaper import Reaper
from workers.redis_store import AsyncRedisJobStore, RedisJobStore
from workers.window_store import AsyncWindowReader


class NotConfigured(Exception):
    """A setting is missing; the message says which."""


def build_app(settings: ApiSettings) -> FastAPI:
    """Connect nothing yet: a store that is down is a 503 later, and no reason not to start.

    Raises:
        NotConfigured: no URL of a store.
        api.auth.KeyUnavailable: no admin key, and none could be made.
    """
    url = settings.redis_url
    if not url:
        raise NotConfigured("set SMARTFRZ_REDIS_URL to the job store, or run `smartfrz up`, which starts one")
    wakeup = CeleryWakeUp(make_celery(settings))
    return create_app(
        settings,
        store=AsyncRedisJobStore(url, settings.key_prefix),
        windows=AsyncWindowReader(settings.window_redis_url or url, settings.key_prefix),
        wakeup=wakeup,
        background=_reaper(url, settings, wakeup) if settings.reaper else None,
    )


def _reaper(url: str, settings: ApiSettings, wakeup: WakeUp) -> Background:
    def run(stop: threading.Event) -> None:
        store = RedisJobStore(url, settings.key_prefix)
        try:
            Reaper(store, wakeup, settings).run_forever(stop)
        finally:
            store.close()

    return run
