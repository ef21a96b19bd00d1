"""Bodies that Python reads as JSON, and that no store can keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.strict_json import MAX_DEPTH, check

HEAD = b'{"name":"demo","model":{"name":"minilm-l6"},"data":{"name":"20newsgroups"},'


@pytest.mark.parametrize(
    "tail",
    [
        b'"training":{"optimizer":{"lr":Infinity}}}',
        b'"training":{"optimizer":{"lr":1e999}}}',
        b'"max_duration_seconds":1e400}',
        b'"metadata":{"a":"\\ud800"}}',
        b'"training":{"grad_clip":NaN}}',
        b'"freeze":{"options":{"a":' + b"[" * 62 + b"]" * 62 + b"}}}",
    ],
)
async def test_they_are_422_and_nothing_is_written(world: Any, tail: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await world.client.post("/v1/jobs", content=HEAD + tail, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "JSON_INVALID")
    assert world.store.counts() == {}


@pytest.mark.parametrize("number", ["inf", "-Infinity", "nan", "1e999"])
@pytest.mark.parametrize(
    ("part", "pointer"),
    [
        ({"optimizer": {"lr": ...}}, "/training/optimizer/lr"),
        ({"optimizer": {"weight_decay": ...}}, "/training/optimizer/weight_decay"),
        ({"early_stop": {"min_delta": ...}}, "/training/early_stop/min_delta"),
        ({"checkpoint_every_seconds": ...}, "/training/checkpoint_every_seconds"),
        ({"grad_clip": ...}, "/training/grad_clip"),
    ],
)
async def test_a_string_that_reads_as_no_finite_number_is_422(
    world: Any, make_spec: Any, part: dict[str, Any], pointer: str, number: str
) -> None:
    body = json.dumps(make_spec(training=part), default=lambda _: number)
    answer = await world.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert world.store.counts() == {}


async def test_the_deepest_that_is_let_in_can_be_read_again(make_world: Any, make_spec: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    world = make_world(code_dir=tmp_path)
    nested: list[Any] = []
    for _ in range(MAX_DEPTH - 4):  # the body, its model, their options and this list are levels too
        nested = [nested]
    model = {"name": "code", "entry": "own.py:make", "options": {"a": nested}}
    async with world.client:
        job_id = await world.submit(model=model)
        assert (await world.client.get(f"/v1/jobs/{job_id}")).json()["spec"]["model"]["options"] == {"a": nested}
        model["options"] = {"a": [nested]}
        answer = await world.client.post("/v1/jobs", json=make_spec(model=model))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "JSON_INVALID")
    assert "64 deep" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize("body", [b"[" * 500_000, b"\xff", b""])
async def test_what_is_no_json_is_a_problem_too(world: Any, body: bytes) -> None:
    answer = await world.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_a_store_can_keep_passes() -> None:
    assert check('{"a": [1.5, -2e10, "ä😀", null, true]}'.encode()) is None


@pytest.mark.parametrize(
    "document", [{f"k{i}": 1 for i in range(10_001)}, {"a": [0] * 10_001}, {"a": {"b": [{}] * 10_001}}]
)
def test_no_document_is_larger_than_anything_that_is_meant(document: object) -> None:
    assert check(json.dumps(document).encode()) == "it holds more than 10000 fields and items"


def test_a_long_list_passes() -> None:
    assert check(json.dumps({"pin": ["u"] * 9_000}).encode()) is None


@pytest.mark.parametrize("part", ["", "freeze", "model"])
async def test_a_body_full_of_faults_gets_an_answer_that_stays_small(world: Any, make_spec: Any, part: str) -> None:
    faults = {f"k{i}": 1 for i in range(9_000)}
    spec = make_spec()
    if part == "":
        spec |= faults
    elif part == "freeze":
        spec["freeze"] = faults
    else:
        spec["model"]["options"] = faults
    answer = await world.client.post("/v1/jobs", json=spec)
    body = answer.json()
    assert (answer.status_code, len(body["errors"]), body["metadata"]) == (422, 100, {"errors": 9_000})
    assert len(answer.content) < 150_000
    assert body["errors"][0]["pointer"].endswith("/k0")


async def test_a_name_of_a_megabyte_is_not_sent_back(world: Any, make_spec: Any) -> None:
    for spec in (make_spec(**{"x" * 900_000: 1}), make_spec(model={"name": "x" * 900_000})):
        answer = await world.client.post("/v1/jobs", json=spec)
        assert (answer.status_code, len(answer.content) < 10_000) == (422, True)
