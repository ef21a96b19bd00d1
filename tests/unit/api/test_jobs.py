"""Submit, list, get, wait, cancel."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from api.routes.jobs import prefer_wait
from api.views import matches_etag
from workers.jobs import state
from workers.jobs.errors import StoreUnavailable
from workers.jobs.ports import Change


async def test_submit_answers_201_with_the_job_and_its_location(world: Any, make_spec: Any) -> None:
    answer = await world.client.post("/v1/jobs", json=make_spec(metadata={"team": "a"}))
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["id"].startswith("job_")
    assert job["status"] == "queued"
    assert job["queue"] == {"position": 1, "reason": None}
    assert job["created_at"].endswith("Z")
    assert job["metadata"] == {"team": "a"}
    assert job["spec"]["training"]["epochs"] == 1
    assert world.store.get(job["id"]).status == "queued"
    assert world.wakeup.count == 1


async def test_validate_only_writes_nothing(world: Any, make_spec: Any) -> None:
    answer = await world.client.post("/v1/jobs?validate_only=true", json=make_spec())
    assert answer.status_code == 200
    assert answer.json()["valid"] is True
    assert world.store.counts() == {}
    assert world.wakeup.count == 0


async def test_an_unknown_model_is_422_with_a_pointer(world: Any, make_spec: Any) -> None:
    for query in ("", "?validate_only=true"):
        answer = await world.client.post(f"/v1/jobs{query}", json=make_spec(model={"name": "no-such-model"}))
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["code"] == "SPEC_INVALID"
        assert "/model/name" in [fault["pointer"] for fault in body["errors"]]
    assert world.store.counts() == {}


async def test_an_unknown_field_is_422_with_a_pointer(world: Any, make_spec: Any) -> None:
    answer = await world.client.post("/v1/jobs", json=make_spec(training={"epocs": 3}))
    fault = answer.json()["errors"][0]
    assert (answer.status_code, fault["pointer"], fault["code"]) == (422, "/training/epocs", "EXTRA_FORBIDDEN")


async def test_the_same_key_and_spec_give_the_first_job(world: Any, make_spec: Any) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await world.client.post("/v1/jobs", json=make_spec(), headers=headers)
    reordered = json.dumps(dict(reversed(make_spec(priority=0).items())))
    again = await world.client.post(
        "/v1/jobs", content=reordered, headers=headers | {"Content-Type": "application/json"}
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert world.wakeup.count == 1


async def test_the_same_key_with_another_spec_is_422(world: Any, make_spec: Any) -> None:
    headers = {"Idempotency-Key": "k1"}
    await world.client.post("/v1/jobs", json=make_spec(), headers=headers)
    answer = await world.client.post("/v1/jobs", json=make_spec(priority=1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert world.store.counts() == {"queued": 1}


async def test_a_replay_is_not_judged_by_what_changed_since(make_world: Any, make_spec: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    world = make_world(code_dir=tmp_path)
    model, headers = {"name": "code", "entry": "own.py:make"}, {"Idempotency-Key": "k1"}
    async with world.client:
        first = await world.client.post("/v1/jobs", json=make_spec(model=model), headers=headers)
        (tmp_path / "own.py").unlink()
        again = await world.client.post("/v1/jobs", json=make_spec(model=model), headers=headers)
        other = await world.client.post("/v1/jobs", json=make_spec(model=model, priority=1), headers=headers)
        fresh = await world.client.post("/v1/jobs", json=make_spec(model=model), headers={"Idempotency-Key": "k2"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (fresh.status_code, fresh.json()["code"]) == (422, "SPEC_INVALID")
    assert (world.store.counts(), world.wakeup.count) == ({"queued": 1}, 1)


async def test_two_at_once_with_one_key_make_one_job(world: Any, make_spec: Any) -> None:
    answers = await asyncio.gather(
        *(world.client.post("/v1/jobs", json=make_spec(), headers={"Idempotency-Key": "k"}) for _ in range(5))
    )
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert world.store.counts() == {"queued": 1}


async def test_a_store_that_is_down_is_503_and_nothing_is_written(world: Any, make_spec: Any) -> None:
    world.store.available = False
    answer = await world.client.post("/v1/jobs", json=make_spec())
    assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1
    world.store.available = True
    assert world.store.counts() == {}
    assert world.wakeup.count == 0


async def test_a_wake_up_that_fails_is_no_error(world: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise StoreUnavailable("the broker is away")

    monkeypatch.setattr(world.wakeup, "wake", broken)
    assert (await world.client.post("/v1/jobs", json=make_spec())).status_code == 201
    assert world.store.counts() == {"queued": 1}


async def test_list_pages_through_all_jobs_newest_first(world: Any) -> None:
    ids = [await world.submit() for _ in range(5)]
    ids.sort(reverse=True)
    seen: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": 2} | ({"after": after} if after else {})
        page = (await world.client.get("/v1/jobs", params=params)).json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [job["id"] for job in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == ids
    oldest = (await world.client.get("/v1/jobs?order=asc&limit=1")).json()
    assert oldest["data"][0]["id"] == ids[-1]


async def test_list_filters(world: Any) -> None:
    one, two = await world.submit(name="one", metadata={"team": "a"}), await world.submit(name="two")
    world.run(two)
    for query, expected in (
        ("status=queued", [one]),
        ("status=queued&status=running", [two, one]),
        ("name=two", [two]),
        ("metadata[team]=a", [one]),
        ("metadata[team]=b", []),
    ):
        page = (await world.client.get(f"/v1/jobs?{query}")).json()
        assert sorted(job["id"] for job in page["data"]) == sorted(expected), query
    assert (await world.client.get("/v1/jobs?status=nonsense")).status_code == 422
    assert (await world.client.get("/v1/jobs?limit=0")).status_code == 422


async def test_an_oversize_limit_is_coerced(make_world: Any) -> None:
    world = make_world(page_max=2)
    async with world.client:
        for _ in range(3):
            await world.submit()
        page = (await world.client.get("/v1/jobs?limit=100000")).json()
    assert (len(page["data"]), page["has_more"]) == (2, True)


async def test_an_unknown_job_is_404(world: Any) -> None:
    for path in ("", "/freeze", "/freeze/history", "/events", "/metrics", "/logs", "/artifacts", "/artifacts/x"):
        answer = await world.client.get(f"/v1/jobs/job_0{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND"), path


async def test_etag_gives_304_until_the_job_changes(world: Any) -> None:
    job_id = await world.submit()
    first = await world.client.get(f"/v1/jobs/{job_id}")
    assert first.headers["retry-after"]
    headers = {"If-None-Match": first.headers["etag"]}
    same = await world.client.get(f"/v1/jobs/{job_id}", headers=headers)
    assert (same.status_code, same.content) == (304, b"")
    world.run(job_id)
    changed = await world.client.get(f"/v1/jobs/{job_id}", headers=headers)
    assert (changed.status_code, changed.json()["status"]) == (200, "running")
    assert changed.json()["worker_id"] == "w1"
    world.finish(job_id)
    assert "retry-after" not in (await world.client.get(f"/v1/jobs/{job_id}")).headers


async def test_wait_returns_on_the_first_change(world: Any) -> None:
    job_id = await world.submit()
    waiting = asyncio.create_task(world.client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    world.run(job_id)
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.json()["status"] == "running"
    assert answer.headers["preference-applied"] == "wait=30"


async def test_wait_answers_at_once_where_the_client_is_behind_or_the_job_has_ended(world: Any) -> None:
    job_id = await world.submit()
    etag = (await world.client.get(f"/v1/jobs/{job_id}")).headers["etag"]
    world.run(job_id)
    behind = world.client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30", "If-None-Match": etag})
    assert (await asyncio.wait_for(behind, 5)).json()["status"] == "running"
    world.finish(job_id)
    ended = world.client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})
    assert (await asyncio.wait_for(ended, 5)).json()["status"] == "succeeded"


async def test_wait_ends_unchanged_when_its_time_is_over(make_world: Any) -> None:
    world = make_world(wait_max_seconds=0.05)
    async with world.client:
        job_id = await world.submit()
        etag = (await world.client.get(f"/v1/jobs/{job_id}")).headers["etag"]
        headers = {"Prefer": "wait=30", "If-None-Match": etag}
        assert (await world.client.get(f"/v1/jobs/{job_id}", headers=headers)).status_code == 304


@pytest.mark.parametrize(
    ("header", "matches"),
    [(None, False), ("*", True), ('W/"3-0"', True), ('"3-0"', True), ('"1", W/"3-0"', True), ('W/"3-1"', False)],
)
def test_if_none_match_is_a_list_compared_weakly(header: str | None, matches: bool) -> None:
    assert matches_etag(header, 'W/"3-0"') is matches


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("wait=5", 5), ("respond-async, wait=10", 10), ("await=3", None), (None, None), ("wait=x", None)],
)
def test_prefer_wait(header: str | None, seconds: int | None) -> None:
    assert prefer_wait(header) == seconds


async def test_cancel_is_202_then_200(world: Any) -> None:
    job_id = await world.submit()
    world.run(job_id)
    first = await world.client.post(f"/v1/jobs/{job_id}/cancel")
    again = await world.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["status"]) == (202, "cancelling")
    assert (again.status_code, again.json()["status"]) == (200, "cancelling")
    waiting = await world.submit()
    assert (await world.client.post(f"/v1/jobs/{waiting}/cancel")).json()["status"] == "cancelled"


async def test_cancel_of_an_ended_job_is_409_not_to_be_retried(world: Any) -> None:
    job_id = await world.submit()
    world.run(job_id)
    world.finish(job_id)
    answer = await world.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "ILLEGAL_TRANSITION")
    assert answer.headers["x-should-retry"] == "false"
    assert world.store.get(job_id).status == "succeeded"


async def test_every_place_in_a_long_queue_is_told(world: Any) -> None:
    first = await world.submit()
    record = world.store.get(first)
    for n in range(1000):
        world.store.create(record.model_copy(update={"id": f"job_{n:x}"}))
    last = await world.submit()
    assert (await world.client.get(f"/v1/jobs/{last}")).json()["queue"]["position"] == 1002


async def test_a_record_that_cannot_be_read_fails_alone(world: Any) -> None:
    bad, good = await world.submit(), await world.submit()
    world.store._records[bad] = world.store._records[bad].replace('"lr":0.001', '"lr":null')
    page = (await world.client.get("/v1/jobs")).json()
    assert [job["id"] for job in page["data"]] == [good]
    for path in (f"/v1/jobs/{good}", "/v1/queues", "/metrics"):
        assert (await world.client.get(path)).status_code == 200, path
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = await world.client.request(method, f"/v1/jobs/{bad}{path}")
        assert (answer.status_code, answer.json()["code"]) == (500, "RECORD_UNREADABLE"), path
    assert (await world.client.post(f"/v1/jobs/{good}/cancel")).json()["status"] == "cancelled"


async def test_durations_add_up(world: Any) -> None:
    job_id = await world.submit()
    record = world.store.get(job_id)
    started = record.model_copy(update={"created_at": record.created_at - 100, "run_seconds": 30.0})
    world.store.update(job_id, lambda _, __: Change(started))
    durations = (await world.client.get(f"/v1/jobs/{job_id}")).json()["durations"]
    assert durations["running_seconds"] == 30.0
    assert 70.0 <= durations["queued_seconds"] < 71.0


async def test_the_queue_says_position_and_reason(world: Any) -> None:
    first, second = await world.submit(), await world.submit()
    urgent = await world.submit(priority=5)
    world.store.update(second, lambda r, now: state.explain_queue(r, now, reason="no_worker_fits: 8 ranks"))
    views = {j: (await world.client.get(f"/v1/jobs/{j}")).json()["queue"] for j in (first, second, urgent)}
    assert [views[j]["position"] for j in (urgent, first, second)] == [1, 2, 3]
    assert views[second]["reason"] == "no_worker_fits: 8 ranks"
