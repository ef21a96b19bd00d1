"""Freeze commands over HTTP."""

from __future__ import annotations

from typing import Any

import pytest


def path(job_id: str) -> str:
    return f"/v1/jobs/{job_id}/freeze/commands"


async def test_a_command_is_accepted_settled_and_listed(world: Any) -> None:
    job_id = await world.submit()
    answer = await world.client.post(path(job_id), json={"action": "freeze", "units": ["conv1"]})
    assert answer.status_code == 202, answer.text
    command = answer.json()
    assert (command["id"], command["state"], command["units"]) == ("cmd_000001", "pending", ["conv1"])
    await world.client.post(path(job_id), json={"action": "thaw"})
    fence = world.run(job_id)
    world.store.settle_command(job_id, fence, 1, step=7)
    world.store.settle_command(job_id, fence, 2, step=8, error="nothing is frozen")
    page = (await world.client.get(path(job_id))).json()
    assert [(c["state"], c["applied_at_step"], c["error"]) for c in page["data"]] == [
        ("applied", 7, None),
        ("refused", 8, "nothing is frozen"),
    ]
    assert page["data"][1]["units"] is None
    rest = (await world.client.get(path(job_id), params={"after": page["first_id"], "limit": 1})).json()
    assert [c["id"] for c in rest["data"]] == ["cmd_000002"]
    events = (await world.client.get(f"/v1/jobs/{job_id}/events")).json()["data"]
    assert [e["type"] for e in events][-2:] == ["command.applied", "command.refused"]


async def test_a_key_replays_and_another_body_is_refused(world: Any) -> None:
    job_id = await world.submit()
    headers = {"Idempotency-Key": "k1"}
    body = {"action": "pin", "units": ["a"]}
    first = await world.client.post(path(job_id), json=body, headers=headers)
    again = await world.client.post(path(job_id), json=body, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await world.client.post(path(job_id), json=body | {"action": "unpin"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_an_ended_job_refuses_and_what_waited_is_refused(world: Any) -> None:
    job_id = await world.submit()
    await world.client.post(path(job_id), json={"action": "thaw"})
    world.run(job_id)
    world.finish(job_id)
    answer = await world.client.post(path(job_id), json={"action": "thaw"})
    assert (answer.status_code, answer.json()["code"]) == (409, "ILLEGAL_TRANSITION")
    assert answer.headers["x-should-retry"] == "false"
    (command,) = (await world.client.get(path(job_id))).json()["data"]
    assert (command["state"], command["error"]) == ("refused", "the job ended first")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "melt", "units": ["a"]},
        {"action": "freeze"},
        {"action": "pin", "units": None},
        {"action": "thaw", "units": []},
        {"action": "thaw", "units": [""]},
        {"action": "thaw", "units": "a"},
        {"action": "thaw", "unit": ["a"]},
        [],
    ],
)
async def test_bad_bodies_change_nothing(world: Any, body: Any) -> None:
    job_id = await world.submit()
    answer = await world.client.post(path(job_id), json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert (await world.client.get(path(job_id))).json()["data"] == []


async def test_unknown_jobs_and_no_key(world: Any) -> None:
    assert (await world.client.get(path("job_0"))).status_code == 404
    assert (await world.client.post(path("job_0"), json={"action": "thaw"})).status_code == 404
    async with world.connect() as stranger:
        assert (await stranger.post(path("job_0"), json={"action": "thaw"})).status_code == 401


async def test_metrics_count_what_was_frozen(world: Any) -> None:
    job_id = await world.submit()
    fence = world.run(job_id)
    world.store.append_decision(job_id, fence, {"step": 1, "policy": "linear", "frozen": ["a", "b"]})
    world.store.put_freeze(job_id, fence, {"step": 1, "units": [{"name": "a", "state": "frozen"}, {"name": "c"}]})
    text = (await world.client.get("/metrics")).text
    assert 'smartfrz_freeze_events_total{action="freeze",policy="linear"} 2.0' in text
    assert f'smartfrz_job_frozen_units{{job="{job_id}"}} 1.0' in text


async def test_a_cache_above_the_operators_bound_is_refused(world: Any) -> None:
    body = {"name": "demo", "model": {"name": "minilm-l6"}, "data": {"name": "20newsgroups"}}
    most = world.settings.max_cache_ram_mib
    for asked, status in ((most, 201), (most + 1, 422)):
        answer = await world.client.post("/v1/jobs", json=body | {"freeze": {"cache_ram_mib": asked}})
        assert answer.status_code == status, answer.text
    assert [(f["pointer"], f["code"]) for f in answer.json()["errors"]] == [
        ("/freeze/cache_ram_mib", "CACHE_TOO_LARGE")
    ]
