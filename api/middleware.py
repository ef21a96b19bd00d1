"""The outermost layer of every request: request id, key, body limit, duration, and the last catch of an error."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import Keys
from api.errors import ApiError, respond, unsupported

OPEN_PATHS = frozenset({"/livez", "/readyz", "/docs"})
"""Paths that need no key: the probes, and the shell of the documentation page (what it shows needs one)."""

Observe = Callable[[str, str, int, float], None]
"""``(method, route template, status, seconds)``."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Told apart in the histogram; anybody may send any other word, and each would be a series that stays."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_log = logging.getLogger("smartfrz.api")


class Gate:
    """Plain ASGI, so that streams pass unbuffered."""

    def __init__(self, app: ASGIApp, *, keys: Keys, max_body_bytes: int, observe: Observe) -> None:
        self.app, self.keys, self.max_body_bytes, self.observe = app, keys, max_body_bytes, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id", "")
        request_id = offered if _REQUEST_ID.fullmatch(offered) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 0, time.perf_counter()
        head = scope["method"] == "HEAD"
        inner: Scope = {**scope, "method": "GET"} if head else scope  # whatever can be read can be asked about

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            elif head:
                return
            await send(message)
            if head:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            self._authorize(scope, headers)
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise unsupported("Content-Encoding is not understood: send the body as it is.")
            await self.app(inner, await self._limited(headers, receive), send_with_id)
        except ApiError as error:
            await respond(inner, error)(inner, receive, send_with_id)
        except SendTimeoutError:
            _log.info("request %s: reader too slow, dropped", request_id)
        except Exception:
            _log.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if status:
                raise  # the answer has begun: only closing the connection can tell the client
            unknown = ApiError(500, "INTERNAL", "An unexpected error; the log has it under this request_id.")
            await respond(inner, unknown)(inner, receive, send_with_id)
        finally:
            route = getattr(inner.get("route"), "path", "(none)")
            method = scope["method"] if scope["method"] in _METHODS else "(other)"
            self.observe(method, route, status, time.perf_counter() - started)

    def _authorize(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in OPEN_PATHS or self.keys.accepts(headers.get("authorization")):
            return
        raise ApiError(
            401,
            "UNAUTHORIZED",
            "This needs a key: send 'Authorization: Bearer <key>'. The admin key is in <home>/admin.key of the server.",
            headers={"WWW-Authenticate": 'Bearer realm="smartfrz"'},
        )

    async def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """Read the body within the limit, and hand it on as one message."""
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return receive
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self.max_body_bytes:
            raise self._too_large()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return _replay(message, receive)
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return _replay({"type": "http.request", "body": bytes(body), "more_body": False}, receive)

    def _too_large(self) -> ApiError:
        detail = f"The body is larger than {self.max_body_bytes} bytes."
        return ApiError(413, "BODY_TOO_LARGE", detail, metadata={"max_body_bytes": self.max_body_bytes})


def _replay(first: Message, receive: Receive) -> Receive:
    pending: list[Message] = [first]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
