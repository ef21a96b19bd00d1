"""A file as an answer. Starlette serves it; what it says to a bad ``Range`` is put right here."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from api.errors import ApiError


class _BadRange(Exception):
    def __init__(self, status: int, content_range: str) -> None:
        self.status, self.content_range = status, content_range


class Download(FileResponse):
    """A range that lies outside the file is a 416 problem; one that is malformed, or not in bytes, is ignored, as
    RFC 9110 (14.2) has it: the whole file is the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unless_bad(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _BadRange(message["status"], Headers(raw=message["headers"]).get("content-range", ""))
            await send(message)

        try:
            await super().__call__(scope, receive, unless_bad)
        except _BadRange as error:
            if error.status == 416:
                detail = f"The range asked for lies outside the file: Content-Range: {error.content_range}."
                headers = {"Content-Range": error.content_range}
                raise ApiError(416, "RANGE_NOT_SATISFIABLE", detail, headers=headers) from None
            kept = [(name, value) for name, value in scope["headers"] if name != b"range"]
            await super().__call__({**scope, "headers": kept}, receive, send)
