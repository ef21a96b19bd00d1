"""The admin key: made at first start, kept as a hash, compared in constant time."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from api.settings import ApiSettings

MIN_LENGTH = 16


class KeyUnavailable(Exception):
    """No admin key could be read or made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """SHA-256 of the admin key. The key itself is not kept."""

    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, key: str) -> Keys:
        return cls(hashlib.sha256(key.encode()).digest())

    def accepts(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header carries the key. Constant time in the key."""
        scheme, _, token = (authorization or "").partition(" ")
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(presented, self.digest) and scheme.lower() == "bearer"


def load_keys(settings: ApiSettings) -> Keys:
    """The key from the environment, else from the named file, else from ``<home>/admin.key``, made when absent.

    Raises:
        KeyUnavailable: nothing to read, nothing to write, or a key too short to be one.
    """
    if settings.admin_key is not None:
        return Keys.of(_checked(settings.admin_key.get_secret_value(), "SMARTFRZ_ADMIN_KEY"))
    if settings.admin_key_file is not None:
        return Keys.of(_checked(_read(settings.admin_key_file), str(settings.admin_key_file)))
    path = settings.home / "admin.key"
    if not path.exists():
        _make(path)
    return Keys.of(_checked(_read(path), str(path)))


def is_loopback(host: str) -> bool:
    """Whether a bind address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(key: str, source: str) -> str:
    key = key.strip()
    if len(key) < MIN_LENGTH:
        raise KeyUnavailable(f"the admin key in {source} is shorter than {MIN_LENGTH} characters")
    return key


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnavailable(f"cannot read the admin key file {path}: {error}") from error


def _make(path: Path) -> None:
    """Write a new key, mode 0600. Of several processes that start at once, one wins and all read its key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".admin.key.", dir=path.parent)  # mkstemp makes it 0600
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                stream.write(f"smf_{secrets.token_urlsafe(32)}\n")
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(name, path)
        finally:
            os.unlink(name)
    except OSError as error:
        raise KeyUnavailable(
            f"cannot write the admin key file {path}: {error}; set SMARTFRZ_ADMIN_KEY or SMARTFRZ_ADMIN_KEY_FILE"
        ) from error
