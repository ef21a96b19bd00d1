"""``/docs``: one static page that draws ``/openapi.json``; nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter(include_in_schema=False)
_PAGE = Path(__file__).parent.parent / "static" / "docs.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


@router.get("/docs")
async def docs() -> Response:
    """The shell of the page is open; what it draws needs the key, which it asks for."""
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(_PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=headers)
