"""``python -m workers.health``: exit 0 when a worker of this host is registered in the store (Compose health check)."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

from workers.jobs.errors import StoreUnavailable
from workers.redis_store import RedisJobStore
from workers.settings import Settings


def main() -> int:
    settings = Settings()
    if settings.redis_url is None:
        sys.stderr.write("no store configured: set SMARTFRZ_REDIS_URL\n")
        return 1
    try:
        with closing(RedisJobStore(settings.redis_url, settings.key_prefix)) as store:
            workers = store.workers()
    except StoreUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if any(worker.host == socket.gethostname() for worker in workers) else 1


if __name__ == "__main__":
    raise SystemExit(main())
