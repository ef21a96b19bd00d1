"""A job that starts from another one's weights: refused at submit where that one has none to give."""

from __future__ import annotations

from typing import Any

import pytest

NOWHERE = "job_00000000000ffffffffff"


async def refusal(world: Any, make_spec: Any, init_from: str, **model: Any) -> tuple[str, str, str]:
    """Pointer, code and detail of the one fault; the same by ``validate_only``, and nothing is written."""
    before, faults = world.store.counts(), []
    for query in ("", "?validate_only=true"):
        spec = make_spec(model={"name": "minilm-l6", "init_from": init_from, **model})
        answer = await world.client.post(f"/v1/jobs{query}", json=spec)
        assert answer.status_code == 422, answer.text
        (fault,) = answer.json()["errors"]
        faults.append((fault["pointer"], fault["code"], fault["detail"]))
    assert faults[0] == faults[1]
    assert world.store.counts() == before
    return faults[0]


async def test_a_job_that_succeeded_can_be_the_start(world: Any, make_spec: Any) -> None:
    source = await world.submit()
    world.run(source)
    files = world.attempt(source)
    files.artifacts.mkdir()
    files.weights.touch()
    world.finish(source)
    job_id = await world.submit(model={"name": "minilm-l6", "init_from": source})
    job = (await world.client.get(f"/v1/jobs/{job_id}")).json()
    assert job["spec"]["model"]["init_from"] == source


async def test_a_job_that_is_not_there(world: Any, make_spec: Any) -> None:
    pointer, code, detail = await refusal(world, make_spec, NOWHERE)
    assert (pointer, code) == ("/model/init_from", "NOT_FOUND")
    assert NOWHERE in detail


@pytest.mark.parametrize("status", ["queued", "running", "failed", "cancelled"])
async def test_a_job_that_has_not_succeeded(world: Any, make_spec: Any, status: str) -> None:
    source = await world.submit()
    if status != "queued":
        world.run(source)
    if status in ("failed", "cancelled"):
        world.finish(source, status)
    pointer, code, detail = await refusal(world, make_spec, source)
    assert (pointer, code) == ("/model/init_from", "NOT_SUCCEEDED")
    assert f"is {status}" in detail


async def test_a_job_whose_files_are_gone(world: Any, make_spec: Any) -> None:
    source = await world.submit()
    world.run(source)
    world.finish(source)
    assert (await refusal(world, make_spec, source))[:2] == ("/model/init_from", "WEIGHTS_GONE")


@pytest.mark.parametrize("text", ["job_../x", "latest", "", "job_XYZ"])
async def test_what_is_no_id(world: Any, make_spec: Any, text: str) -> None:
    pointer, _, _ = await refusal(world, make_spec, text)
    assert pointer == "/model/init_from"


async def test_a_job_whose_record_cannot_be_read(world: Any, make_spec: Any) -> None:
    source = await world.submit()
    world.store._records[source] = "{"
    assert (await refusal(world, make_spec, source))[:2] == ("/model/init_from", "RECORD_UNREADABLE")
