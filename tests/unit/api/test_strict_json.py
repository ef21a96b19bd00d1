"""Bodies that Python reads as JSON, and that no store can keep."""

from __future__ import annotations

from typing import Any

import pytest

from api.strict_json import check

HEAD = b'{"name":"demo","model":{"name":"minilm-l6"},"data":{"name":"20newsgroups"},'


@pytest.mark.parametrize(
    "tail",
    [
        b'"training":{"optimizer":{"lr":Infinity}}}',
        b'"training":{"optimizer":{"lr":1e999}}}',
        b'"max_duration_seconds":1e400}',
        b'"metadata":{"a":"\\ud800"}}',
        b'"training":{"grad_clip":NaN}}',
    ],
)
async def test_they_are_422_and_nothing_is_written(world: Any, tail: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await world.client.post("/v1/jobs", content=HEAD + tail, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "JSON_INVALID")
    assert world.store.counts() == {}


@pytest.mark.parametrize("body", [b"[" * 500_000, b"\xff", b""])
async def test_what_is_no_json_is_a_problem_too(world: Any, body: bytes) -> None:
    answer = await world.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_a_store_can_keep_passes() -> None:
    assert check('{"a": [1.5, -2e10, "ä😀", null, true]}'.encode()) is None
