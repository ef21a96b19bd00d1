"""The composition root: settings and ports in, an application out."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from api import errors
from api.auth import Keys, load_keys
from api.hub import Hub
from api.middleware import Gate
from api.ports import WindowReader
from api.routes import (
    artifacts,
    catalog,
    commands,
    docs,
    events,
    freeze,
    health,
    jobs,
    layers,
    logs,
    metrics,
    prometheus,
    system,
)
from api.service import Jobs
from api.settings import ApiSettings
from api.telemetry import Telemetry
from workers.jobs.catalog import validate
from workers.jobs.errors import StoreUnavailable
from workers.jobs.ports import AsyncJobStore, WakeUp

_log = logging.getLogger("smartfrz.api")
Background = Callable[[threading.Event], None]
"""Runs in a thread for as long as the app does; ends soon after the event is set."""

ROUTERS = (jobs, freeze, commands, events, metrics, logs, artifacts, layers, catalog, system, health, prometheus, docs)


def create_app(
    settings: ApiSettings,
    *,
    store: AsyncJobStore,
    windows: WindowReader,
    wakeup: WakeUp,
    keys: Keys | None = None,
    background: Background | None = None,
) -> FastAPI:
    """The API on the given ports. Tests give it the in-memory twins.

    Args:
        keys: who may enter; read or made by :func:`api.auth.load_keys` when absent.
        background: the reaper, or nothing.

    Raises:
        KeyUnavailable: there is no admin key, and none could be made.
    """
    telemetry = Telemetry()
    hub = Hub(store, buffer=settings.sse_buffer)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=background, args=(stop,), name="reaper", daemon=True) if background else None
        if thread is not None:
            thread.start()
        try:
            async with hub:
                await _tidy(app.state.jobs)
                yield
        finally:
            stop.set()
            if thread is not None:
                thread.join(timeout=settings.shutdown_seconds)
            await store.close()
            await windows.close()

    app = FastAPI(
        title="smartfrz",
        summary="Training that freezes converged layers.",
        version=version("smartfrz"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.jobs = Jobs(settings, store, windows, wakeup, hub, validate)
    app.state.telemetry = telemetry
    errors.install(app, settings.retry_after_seconds)
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_middleware(
        Gate,
        keys=keys or load_keys(settings),
        max_body_bytes=settings.max_body_bytes,
        observe=telemetry.observe,
    )
    _describe(app)
    return app


async def _tidy(jobs: Jobs) -> None:
    """Finish deletions that an earlier process began; a store that is away now is no reason not to start."""
    try:
        await jobs.remove_deleted()
    except StoreUnavailable as error:
        _log.warning("files of deleted jobs are looked for at the next deletion: %s", error)


def _describe(app: FastAPI) -> None:
    """Say in the OpenAPI document what the middleware and the handlers do: keys, and one shape for every error."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            components = document.setdefault("components", {})
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            components.setdefault("schemas", {})
            components["schemas"] |= errors.schemas()
            document["security"] = [{"key": []}]
            problem = {"content": {errors.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    for status, response in operation["responses"].items():
                        if status.startswith(("4", "5")):
                            response.update(problem)
                    operation["responses"]["default"] = {"description": "A problem (RFC 9457).", **problem}
                    if path in ("/livez", "/readyz"):
                        operation["security"] = []
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
