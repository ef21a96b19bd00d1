"""Deleting a job: what has ended goes with its files, whatever crashes on the way; what has not stays."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import Any

import pytest

import api.service
from workers.jobs.layout import JobFiles


async def ended(world: Any, status: str = "succeeded") -> tuple[str, JobFiles]:
    """A job that has ended, and its files."""
    job_id = await world.submit()
    fence = world.run(job_id)
    files = world.attempt(job_id, fence)
    files.checkpoints.mkdir()
    (files.checkpoints / "model.safetensors").write_bytes(b"weights")
    world.finish(job_id, status)
    return job_id, JobFiles(world.settings.home, job_id)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_a_job_that_has_ended_goes_with_its_files(world: Any, status: str) -> None:
    (job_id, files), (other, kept) = await ended(world, status), await ended(world)
    answer = await world.client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not files.root.exists()
    for path in ("", "/events", "/logs", "/artifacts", "/freeze"):
        assert (await world.client.get(f"/v1/jobs/{job_id}{path}")).status_code == 404, path
    assert [job["id"] for job in (await world.client.get("/v1/jobs")).json()["data"]] == [other]
    assert kept.root.exists()
    assert world.store.deleted() == []


async def test_an_unknown_job_is_404_and_so_is_the_second_deletion(world: Any) -> None:
    job_id, _ = await ended(world)
    await world.client.delete(f"/v1/jobs/{job_id}")
    for name in (job_id, "job_000", "..%2f..%2fetc"):
        answer = await world.client.delete(f"/v1/jobs/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND" if "%" not in name else "NOT_FOUND")


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_a_job_that_has_not_ended_is_a_409_that_says_what_to_do(world: Any, status: str) -> None:
    job_id = await world.submit()
    if status == "running":
        world.run(job_id)
    answer = await world.client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "ILLEGAL_TRANSITION")
    assert answer.headers["x-should-retry"] == "false"
    assert "cancel it first" in answer.json()["detail"]
    assert (await world.client.get(f"/v1/jobs/{job_id}")).json()["status"] == status


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_a_job_whose_record_cannot_be_read_says_that_it_can_be_deleted_and_can(world: Any, status: str) -> None:
    bad, good = await world.submit(), await world.submit()
    if status == "running":
        world.attempt(bad, world.run(bad))
    world.store._records[bad] = "{"
    answer = await world.client.post(f"/v1/jobs/{bad}/cancel")
    assert (answer.status_code, answer.json()["metadata"]) == (500, {"job_id": bad})
    assert "delete it" in answer.json()["detail"]
    assert (await world.client.delete(f"/v1/jobs/{bad}")).status_code == 204
    assert (await world.client.get(f"/v1/jobs/{bad}")).status_code == 404
    assert not JobFiles(world.settings.home, bad).root.exists()
    assert world.store.counts() == {"queued": 1}
    assert (await world.client.get(f"/v1/jobs/{good}")).json()["queue"]["position"] == 1


async def test_the_start_of_a_job_that_waits_is_a_409_that_names_the_job(world: Any) -> None:
    start, files = await ended(world)
    files.attempt(1).artifacts.mkdir()
    files.attempt(1).weights.touch()
    user = await world.submit(model={"name": "minilm-l6", "init_from": start})
    answer = await world.client.delete(f"/v1/jobs/{start}")
    assert (answer.status_code, answer.json()["code"]) == (409, "ILLEGAL_TRANSITION")
    assert user in answer.json()["detail"]
    await world.client.post(f"/v1/jobs/{user}/cancel")
    assert (await world.client.delete(f"/v1/jobs/{start}")).status_code == 204


async def test_a_crash_between_record_and_files_is_made_good_at_the_next_start(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, files = await ended(world)

    def crash(_: JobFiles) -> bool:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(api.service, "remove_files", crash)
        with pytest.raises(SystemExit):
            await world.app.state.jobs.delete(job_id)
    assert files.root.exists()
    assert (await world.client.get(f"/v1/jobs/{job_id}")).status_code == 404
    async with world.app.router.lifespan_context(world.app):
        assert not files.root.exists()
    assert world.store.deleted() == []


async def test_files_stay_while_ranks_still_write_them_and_go_with_the_next_deletion(world: Any) -> None:
    (lost, files), (other, _) = await ended(world), await ended(world)
    with open(files.lock, "w") as guardian:
        fcntl.flock(guardian, fcntl.LOCK_EX)
        assert (await world.client.delete(f"/v1/jobs/{lost}")).status_code == 204
        assert files.root.exists()
        assert world.store.deleted() == [lost]
    await world.client.delete(f"/v1/jobs/{other}")
    assert not files.root.exists()
    assert world.store.deleted() == []


async def test_the_app_starts_while_the_store_is_away(make_world: Callable[..., Any]) -> None:
    world = make_world()
    world.store.available = False
    async with world.app.router.lifespan_context(world.app):
        assert (await world.client.get("/livez")).status_code == 200


async def test_a_job_without_files_can_be_deleted(world: Any) -> None:
    job_id = await world.submit()
    await world.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (await world.client.delete(f"/v1/jobs/{job_id}")).status_code == 204


async def test_the_operation_is_described(world: Any) -> None:
    document = (await world.client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/jobs/{job_id}"]["delete"]
    assert set(operation["responses"]) == {"204", "409", "default"}
