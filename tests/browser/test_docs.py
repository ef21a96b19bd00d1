"""``/docs`` in a real browser: the key opens it, every operation is there, and nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from api.app import create_app
from api.auth import Keys
from api.ports import MemoryWindowReader
from api.settings import ApiSettings
from workers.jobs.memory import MemoryJobStore, MemoryWakeUp
from workers.jobs.memory_async import AsyncMemoryJobStore

pytestmark = pytest.mark.browser
KEY = "browser-key-0123456789"
# Flags of a quiet browser in a container: no sandbox of its own, no traffic of its own.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(text: str) -> None:
    """Skip here, fail where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        missing("no chromium here: install it with `apt-get install -y chromium`, or your system's package")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: run `make browser`, which installs smartfrz[browser]")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    app = create_app(
        ApiSettings(home=tmp_path),
        store=AsyncMemoryJobStore(MemoryJobStore()),
        windows=MemoryWindowReader(),
        wakeup=MemoryWakeUp(),
        keys=Keys.of(KEY),
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(params=[1280, 390], ids=["wide", "narrow"])
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """A fresh page on ``/docs``; afterwards: no error in it, and no request to another place."""
    context = browser.new_context(viewport={"width": request.param, "height": 800})
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(f"{url}/docs")
    yield page
    context.close()
    assert errors == []
    assert asked
    assert all(one.startswith(f"{url}/") for one in asked), asked


def enter(page: Any, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Show").click()


def test_a_wrong_key_shows_nothing_and_says_so(page: Any) -> None:
    enter(page, "wrong-key-0123456789")
    page.get_by_text("This key is not accepted.").wait_for()
    assert page.locator("details").count() == 0


def test_the_key_shows_every_operation_in_its_group(page: Any) -> None:
    enter(page, KEY)
    page.locator("#group-jobs").wait_for()
    api = page.evaluate(f"fetch('/openapi.json', {{headers: {{Authorization: 'Bearer {KEY}'}}}}).then(r => r.json())")
    operations = sum(len(methods) for methods in api["paths"].values())
    assert page.locator("section:not(#group-schemas) details").count() == operations
    groups = {op["tags"][0] for methods in api["paths"].values() for op in methods.values()}
    assert {heading.lower() for heading in page.locator("h2").all_inner_texts()} == groups | {"schemas"}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out to the right"


def test_an_operation_leads_to_the_schema_of_its_body(page: Any) -> None:
    enter(page, KEY)
    create = page.locator("#group-jobs details", has_text="Submit a job").first
    create.locator("summary").click()
    create.get_by_role("link", name="JobSpec").click()
    fields = page.locator("#schema-JobSpec[open] dt code")
    fields.first.wait_for()
    assert {"name", "model", "data", "freeze"} <= set(fields.all_inner_texts())
    assert create.get_by_text("Authorization: Bearer $KEY").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
