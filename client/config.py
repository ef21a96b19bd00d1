"""Where the service is and with which key: flags, then environment, then the files of the installation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import NotConfigured


@dataclass(frozen=True, slots=True)
class Connection:
    """Base URL and bearer key. The key never shows in ``repr``."""

    url: str
    key: str = field(repr=False)


def home_from(environ: Mapping[str, str]) -> Path:
    """``SMARTFRZ_HOME``, or ``.smartfrz`` in the working directory."""
    return Path(environ.get("SMARTFRZ_HOME") or ".smartfrz")


def find_connection(
    *,
    url: str | None = None,
    key: str | None = None,
    home: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Connection:
    """Resolve URL and key: argument, ``SMARTFRZ_URL``/``SMARTFRZ_API_KEY``, ``<home>/server.json`` + ``admin.key``.

    Raises:
        NotConfigured: one of them is nowhere to be found; the message lists the places.
    """
    environ = os.environ if environ is None else environ
    home = home or home_from(environ)
    url = url or environ.get("SMARTFRZ_URL") or _read_url(home / "server.json")
    if not url:
        raise NotConfigured(
            f"no service is known: start one with `smartfrz up`, or give --url or SMARTFRZ_URL "
            f"(there is no {home / 'server.json'})"
        )
    if not url.startswith(("http://", "https://")):
        raise NotConfigured(f"the URL of the service must begin with http:// or https://, not {url!r}")
    key = key or environ.get("SMARTFRZ_API_KEY") or _read_key(home / "admin.key")
    if not key:
        raise NotConfigured(
            f"no API key is known for {url}: give --api-key or SMARTFRZ_API_KEY, "
            f"or run where {home / 'admin.key'} can be read"
        )
    return Connection(url.rstrip("/"), key)


def _read_url(path: Path) -> str | None:
    try:
        url = json.loads(path.read_text(encoding="utf-8")).get("url")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        raise NotConfigured(f'{path} is damaged: it should hold {{"url": ...}}') from None
    return str(url) if url else None


def _read_key(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NotConfigured(f"{path} may not be read by this user: it belongs to whoever runs the service") from None
