"""Where URL and key come from, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import find_connection
from client.errors import NotConfigured


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "server.json").write_text('{"url": "http://file:1/"}')
    (tmp_path / "admin.key").write_text("filekey\n")
    return tmp_path


def test_files_of_the_installation_serve_last(home: Path) -> None:
    found = find_connection(home=home, environ={})
    assert (found.url, found.key) == ("http://file:1", "filekey")


def test_flags_beat_environment_beats_files(home: Path) -> None:
    environ = {"SMARTFRZ_URL": "http://env:2", "SMARTFRZ_API_KEY": "envkey", "SMARTFRZ_HOME": str(home)}
    found = find_connection(environ=environ)
    assert (found.url, found.key) == ("http://env:2", "envkey")
    found = find_connection(url="http://flag:3", key="flagkey", environ=environ)
    assert (found.url, found.key) == ("http://flag:3", "flagkey")


def test_the_key_does_not_show(home: Path) -> None:
    assert "filekey" not in repr(find_connection(home=home, environ={}))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="smartfrz up"):
        find_connection(home=tmp_path, environ={})
    with pytest.raises(NotConfigured, match="SMARTFRZ_API_KEY"):
        find_connection(url="http://x", home=tmp_path, environ={})
    with pytest.raises(NotConfigured, match="http://"):
        find_connection(url="localhost:8080", key="k", environ={})
    (tmp_path / "server.json").write_text("[]")
    with pytest.raises(NotConfigured, match="damaged"):
        find_connection(home=tmp_path, environ={})
