"""``python -m api``: serve the API with uvicorn."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from api.auth import KeyUnavailable, is_loopback
from api.build import NotConfigured, build_app
from api.service import Jobs
from api.settings import ApiSettings


class Server(uvicorn.Server):
    """Ends streams and waiting requests as soon as it is told to stop, so that they do not hold it up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        jobs = app.state.jobs
        assert isinstance(jobs, Jobs)
        jobs.hub.close()
        await super().shutdown(sockets)


def serve(app: FastAPI, settings: ApiSettings, host: str, port: int) -> None:
    """Serve until a signal; open requests have ``shutdown_seconds`` to end."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        server_header=False,
        log_level="info",
        access_log=settings.access_log,  # a watcher polls every second or so, and nobody rotates the log
    )
    Server(config).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after an orderly stop, 2 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = ApiSettings()
    try:
        app = build_app(settings)
    except (KeyUnavailable, NotConfigured) as error:
        where = "" if is_loopback(arguments.host) else f" (no key, no service on {arguments.host})"
        print(f"smartfrz api: {error}{where}", file=sys.stderr)  # noqa: T201
        return 2
    serve(app, settings, arguments.host, arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
