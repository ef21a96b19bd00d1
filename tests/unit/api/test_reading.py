"""Freeze status, decisions, events as a list, metrics, logs, artifacts, trajectories, catalog, workers, gauges."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import pytest

from freezer.windows import Snapshot
from workers.jobs import state
from workers.jobs.record import Event, WorkerInfo


async def get(world: Any, path: str, status: int = 200) -> Any:
    answer = await world.client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


# --- freezing

UNIT = {"name": "conv1", "index": 0, "block": "stem", "state": "frozen", "probability": 0.9, "frozen_at_step": 7}


async def test_freeze_status_has_one_shape_before_and_after_the_first_report(world: Any) -> None:
    job_id = await world.submit(freeze={"policy": "linear"})
    before = await get(world, f"/v1/jobs/{job_id}/freeze")
    assert (before["units"], before["status"], before["policy"], before["step"]) == ([], "queued", "linear", 0)
    fence = world.run(job_id)
    document = {"job_id": job_id, "status": "?", "attempt": 1, "step": 9, "plan_seq": 1, "plan_hash": "ab",
                "policy": "linear", "mode": "prefix", "units": [UNIT], "next_stage_at_step": 12, "updated_at": 1.5,
                "savings": {"measured": {"allreduce_bytes_ratio": 0.5}, "estimated": {}}}  # fmt: skip
    world.store.put_freeze(job_id, fence, document)
    after = await get(world, f"/v1/jobs/{job_id}/freeze")
    assert before.keys() == after.keys()
    assert (after["status"], after["step"], after["updated_at"]) == ("running", 9, "1970-01-01T00:00:01.500Z")
    assert after["units"][0].items() >= UNIT.items()
    assert after["savings"]["measured"] == {"allreduce_bytes_ratio": 0.5}


async def test_freeze_status_has_an_etag(world: Any) -> None:
    job_id = await world.submit()
    fence = world.run(job_id)
    path = f"/v1/jobs/{job_id}/freeze"
    first = await world.client.get(path)
    headers = {"If-None-Match": first.headers["etag"]}
    assert (await world.client.get(path, headers=headers)).status_code == 304
    world.store.put_freeze(job_id, fence, {"step": 5, "units": []})
    assert (await world.client.get(path, headers=headers)).json()["step"] == 5


async def test_history_pages_by_seq(world: Any) -> None:
    job_id = await world.submit()
    fence = world.run(job_id)
    for step in (10, 20, 30):
        world.store.append_decision(job_id, fence, {"step": step, "freeze": ["conv1"], "at": 2.0})
    world.store.supersede_decisions(job_id, fence, after_step=25)
    first = await get(world, f"/v1/jobs/{job_id}/freeze/history?limit=2")
    assert [d["step"] for d in first["data"]] == [10, 20]
    assert (first["has_more"], first["last_id"]) == (True, "2")
    assert first["data"][0]["at"] == "1970-01-01T00:00:02.000Z"
    assert first["data"][0]["freeze"] == ["conv1"]
    rest = await get(world, f"/v1/jobs/{job_id}/freeze/history?after={first['last_id']}")
    assert [(d["seq"], d["superseded"]) for d in rest["data"]] == [(3, True)]
    assert rest["has_more"] is False


def pack(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("unit", ["conv1", "blocks.0.attn.qkv", "encoder/layer.1/out", "a/trajectory"])
async def test_trajectory_of_a_unit_whatever_its_name(world: Any, unit: str) -> None:
    job_id = await world.submit()
    world.windows.windows[job_id, unit] = [Snapshot(0, pack(1.0, 3.0)), Snapshot(5, pack(2.0, 5.0))]
    found = await get(world, f"/v1/jobs/{job_id}/layers/{unit}/trajectory")
    assert found["unit"] == unit
    first, second = found["window"]
    assert (first["step"], first["mean"], first["std"], first["drift"], first["values"]) == (0, 2.0, 1.0, 0.0, None)
    assert (second["step"], second["mean"], second["std"]) == (5, 3.5, 1.5)
    assert second["drift"] == pytest.approx(math.sqrt((1 + 4) / 2))
    with_values = await get(world, f"/v1/jobs/{job_id}/layers/{unit}/trajectory?values=true")
    assert with_values["window"][1]["values"] == [2.0, 5.0]


async def test_trajectory_of_diverged_weights_is_still_json(world: Any) -> None:
    job_id = await world.submit()
    window = [Snapshot(0, pack(1.0, 1.0)), Snapshot(1, pack(math.inf, -math.inf)), Snapshot(2, pack(1.0))]
    world.windows.windows[job_id, "u"] = window
    found = await get(world, f"/v1/jobs/{job_id}/layers/u/trajectory?values=true")
    assert found["window"][1]["values"] == [None, None]
    assert found["window"][1]["mean"] is None
    assert found["window"][2]["drift"] is None


async def test_trajectory_knows_units_without_a_window_from_those_that_do_not_exist(world: Any) -> None:
    job_id = await world.submit()
    world.store.put_freeze(job_id, world.run(job_id), {"units": [{"name": "conv1"}]})
    assert (await get(world, f"/v1/jobs/{job_id}/layers/conv1/trajectory"))["window"] == []
    assert (await get(world, f"/v1/jobs/{job_id}/layers/conv9/trajectory", 404))["code"] == "UNIT_NOT_FOUND"


# --- events


async def test_events_page_by_id(world: Any) -> None:
    job_id = await world.submit()
    world.run(job_id)
    world.store.append_event(job_id, Event(type="log", at=1.0, data={"loss": math.nan}))
    first = await get(world, f"/v1/jobs/{job_id}/events?limit=2")
    assert [e["type"] for e in first["data"]] == ["job.created", "job.starting"]
    assert first["has_more"] is True
    rest = await get(world, f"/v1/jobs/{job_id}/events?after={first['last_id']}")
    assert [e["type"] for e in rest["data"]] == ["job.running", "log"]
    assert rest["data"][1] | {"id": ""} == {
        "object": "event", "id": "", "job_id": job_id, "type": "log", "at": "1970-01-01T00:00:01.000Z",
        "data": {"loss": None},
    }  # fmt: skip
    assert (await get(world, f"/v1/jobs/{job_id}/events?after=nonsense", 422))["errors"][0]["pointer"] == "/query/after"


# --- metrics, logs, artifacts


async def test_metrics_are_one_history_of_all_attempts(world: Any) -> None:
    job_id = await world.submit()
    first, second = world.attempt(job_id, 1), world.attempt(job_id, 2)
    rows = [{"step": s, "at": 1.0, "loss": 10.0 + s} for s in (1, 2, 3, 4)]
    first.metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 5, "lo')
    second.metrics.write_text('{"step": 3, "loss": 1.0, "accuracy": 0.5}\n{"step": 6, "loss": NaN}\n')
    found = await get(world, f"/v1/jobs/{job_id}/metrics")
    assert found["series"] == [
        {"name": "accuracy", "steps": [3], "values": [0.5], "points": 1},
        {"name": "loss", "steps": [1, 2, 3, 6], "values": [11.0, 12.0, 1.0, None], "points": 4},
    ]
    assert [s["name"] for s in (await get(world, f"/v1/jobs/{job_id}/metrics?name=loss"))["series"]] == ["loss"]
    assert (await get(world, f"/v1/jobs/{await world.submit()}/metrics"))["series"] == []


async def test_metrics_of_a_long_history_take_little_memory(world: Any) -> None:
    job_id = await world.submit()
    with world.attempt(job_id, 1).metrics.open("w") as stream:
        for n in range(1, 60_001):
            stream.write(f'{{"step": {n}, "at": 1.0, "loss": {1 / n}, "seconds": {-9.0 if n == 54_321 else 0.5}}}\n')
    tracemalloc.start()
    try:
        found = await get(world, f"/v1/jobs/{job_id}/metrics?max_points=20")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20, peak
    loss, seconds = found["series"]
    assert (loss["points"], loss["steps"][0], loss["steps"][-1]) == (60_000, 1, 60_000)
    assert seconds["values"][seconds["steps"].index(54_321)] == -9.0


async def test_a_log_is_followed_by_bytes_and_cut_at_characters(world: Any) -> None:
    job_id = await world.submit()
    assert (await get(world, f"/v1/jobs/{job_id}/logs"))["content"] == ""
    log = world.attempt(job_id, 3).log(0)
    whole = "eins\nzwei\ndrei ä\n".encode()
    log.write_bytes(whole[:-2])  # in the middle of the ä
    tail = await get(world, f"/v1/jobs/{job_id}/logs?tail=2")
    assert (tail["content"], tail["offset"], tail["attempt"], tail["ranks"]) == ("zwei\ndrei ", 5, 3, [0])
    log.write_bytes(whole)
    after = await get(world, f"/v1/jobs/{job_id}/logs?after={tail['next_after']}")
    assert (after["content"], after["next_after"], after["size_bytes"]) == ("ä\n", len(whole), len(whole))
    assert (await get(world, f"/v1/jobs/{job_id}/logs?after=9999"))["content"] == ""
    assert (await get(world, f"/v1/jobs/{job_id}/logs?tail=1"))["content"] == "drei ä\n"
    plain = await world.client.get(f"/v1/jobs/{job_id}/logs", headers={"Accept": "text/plain"})
    assert (plain.content, plain.headers["content-type"]) == (whole, "text/plain; charset=utf-8")


async def test_a_log_that_is_not_there_is_404(world: Any) -> None:
    job_id = await world.submit()
    world.attempt(job_id, 1).log(0).write_text("x")
    assert (await get(world, f"/v1/jobs/{job_id}/logs?rank=3", 404))["code"] == "LOG_NOT_FOUND"
    assert (await get(world, f"/v1/jobs/{job_id}/logs?attempt=2", 404))["code"] == "LOG_NOT_FOUND"
    await get(world, f"/v1/jobs/{job_id}/logs?tail=1&after=0", 422)


async def test_a_rank_that_has_not_written_yet_has_an_empty_log(world: Any) -> None:
    job_id = await world.submit(resources={"processes_per_worker": 2})
    assert (await get(world, f"/v1/jobs/{job_id}/logs?rank=1"))["content"] == ""
    log = world.attempt(job_id, 1).log
    log(0).write_text("zero")
    early = await get(world, f"/v1/jobs/{job_id}/logs?rank=1&after=0")
    assert (early["content"], early["next_after"], early["attempt"], early["ranks"]) == ("", 0, 1, [0])
    log(1).write_text("one")
    assert (await get(world, f"/v1/jobs/{job_id}/logs?rank=1&after=0"))["content"] == "one"
    never = await get(world, f"/v1/jobs/{job_id}/logs?rank=2", 404)
    assert "the job has 2, counted from 0" in never["detail"]


async def test_a_huge_log_comes_in_pieces(world: Any) -> None:
    job_id = await world.submit()
    text = "".join(f"line {n}\n" for n in range(60_000))
    world.attempt(job_id, 1).log(0).write_text(text)
    parts, after = [], 0
    while True:
        piece = await get(world, f"/v1/jobs/{job_id}/logs?after={after}")
        parts.append(piece["content"])
        after = piece["next_after"]
        if after == piece["size_bytes"]:
            break
    assert len(parts) > 1
    assert "".join(parts) == text


async def test_artifacts_of_the_newest_attempt_that_has_any(world: Any) -> None:
    job_id = await world.submit()
    assert (await get(world, f"/v1/jobs/{job_id}/artifacts"))["data"] == []
    for fence, text in ((1, "old"), (2, "newer"), (3, None)):
        folder = world.attempt(job_id, fence).artifacts / "sub dir"
        folder.mkdir(parents=True)
        if text:
            (folder / "report.json").write_text(text)
    (entry,) = (await get(world, f"/v1/jobs/{job_id}/artifacts"))["data"]
    assert (entry["path"], entry["size_bytes"]) == ("sub dir/report.json", 5)
    content = await world.client.get(entry["url"])
    assert content.text == "newer"
    assert content.headers["content-disposition"].startswith("attachment")
    part = await world.client.get(entry["url"], headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "ew", "bytes 1-2/5")


@pytest.mark.parametrize(
    "path",
    ["..%2Fspec.json", "%2Fetc%2Fpasswd", "link.json", "none.json", "sub%20dir", ".hidden", "x" * 300, "x/" * 3000],
)
async def test_no_artifact_leads_out(world: Any, path: str) -> None:
    job_id = await world.submit()
    attempt = world.attempt(job_id, 1)
    attempt.spec.write_text("secret")
    (attempt.artifacts / "sub dir").mkdir(parents=True)
    (attempt.artifacts / "real.json").write_text("{}")
    (attempt.artifacts / ".hidden").write_text("half")
    (attempt.artifacts / "link.json").symlink_to(attempt.spec)
    assert [e["path"] for e in (await get(world, f"/v1/jobs/{job_id}/artifacts"))["data"]] == ["real.json"]
    assert (await get(world, f"/v1/jobs/{job_id}/artifacts/{path}", 404))["code"] == "ARTIFACT_NOT_FOUND"


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ("bytes=9-", 416, None),
        ("bytes=3-1", 200, "newer"),
        ("bytes=abc", 200, "newer"),
        ("items=0-1", 200, "newer"),
        ("nonsense", 200, "newer"),
        ("bytes=-2", 206, "er"),
    ],
)
async def test_a_range_outside_the_file_is_a_problem_and_one_that_is_none_is_ignored(
    world: Any, asked: str, status: int, text: str | None
) -> None:
    job_id = await world.submit()
    artifacts = world.attempt(job_id).artifacts
    artifacts.mkdir()
    (artifacts / "report.json").write_text("newer")
    answer = await world.client.get(f"/v1/jobs/{job_id}/artifacts/report.json", headers={"Range": asked})
    assert answer.status_code == status
    if text is not None:
        assert answer.text == text
        return
    assert (answer.headers["content-type"], answer.json()["code"]) == (
        "application/problem+json",
        "RANGE_NOT_SATISFIABLE",
    )
    assert answer.headers["content-range"] == "bytes */5"


# --- catalog, workers, queue, gauges


@pytest.mark.parametrize(
    ("kind", "name"), [("models", "minilm-l6"), ("datasets", "20newsgroups"), ("policies", "smartfrz")]
)
async def test_the_catalog_is_listed_with_schemas(world: Any, kind: str, name: str) -> None:
    entries = {entry["name"]: entry for entry in (await get(world, f"/v1/{kind}"))["data"]}
    assert entries[name]["schema"]["type"] == "object"
    assert entries[name]["object"] == {"models": "model", "datasets": "dataset", "policies": "policy"}[kind]
    assert await get(world, f"/v1/{kind}/{name}") == entries[name]
    assert name in (await get(world, f"/v1/{kind}/nonsense", 404))["detail"]


def worker(state: Any = "idle") -> WorkerInfo:
    return WorkerInfo(id="w1", host="h", pid=1, state=state, devices=["cpu"], started_at=1.0, heartbeat_at=2.0)


async def test_workers_and_the_queue_with_its_hint(world: Any) -> None:
    await world.submit()
    (queue,) = (await get(world, "/v1/queues"))["data"]
    assert (queue["depth"], queue["workers"]) == (1, 0)
    assert "no worker is alive" in queue["hint"]
    assert queue["oldest_age_seconds"] >= 0
    world.store.put_worker(worker(), 60)
    (shown,) = (await get(world, "/v1/workers"))["data"]
    assert (shown["id"], shown["devices"], shown["last_heartbeat_at"]) == ("w1", ["cpu"], "1970-01-01T00:00:02.000Z")
    assert (await get(world, "/v1/queues"))["data"][0]["hint"] is None
    world.store.put_worker(worker("draining"), 60)
    assert "draining" in (await get(world, "/v1/queues"))["data"][0]["hint"]
    world.store.put_worker(worker("blocked").model_copy(update={"trouble": "cannot write to /data/jobs"}), 60)
    (shown,) = (await get(world, "/v1/workers"))["data"]
    assert (shown["state"], shown["trouble"]) == ("blocked", "cannot write to /data/jobs")
    assert (await get(world, "/v1/queues"))["data"][0]["hint"].endswith("h: cannot write to /data/jobs")


async def test_gauges_come_from_the_store_and_routes_are_templates(world: Any) -> None:
    job_id = await world.submit()
    await world.submit()
    units = [{"name": "a", "state": "frozen", "parameters": 30}, {"name": "b", "state": "active", "parameters": 70}]
    world.store.put_freeze(job_id, world.run(job_id), {"units": units})
    world.store.put_worker(worker("busy"), 60)
    await get(world, f"/v1/jobs/{job_id}")
    await get(world, "/v1/elsewhere", 404)
    text = (await world.client.get("/metrics")).text
    for line in (
        'smartfrz_jobs{status="running"} 1.0',
        'smartfrz_jobs{status="failed"} 0.0',
        "smartfrz_queue_depth 1.0",
        'smartfrz_workers{state="busy"} 1.0',
        f'smartfrz_job_frozen_parameters_ratio{{job="{job_id}"}} 0.3',
        'smartfrz_http_request_duration_seconds_count{code="200",method="GET",route="/v1/jobs/{job_id}"} 1.0',
        'smartfrz_http_request_duration_seconds_count{code="404",method="GET",route="(none)"} 1.0',
    ):
        assert line in text.splitlines(), line
    world.finish(job_id)
    assert "smartfrz_job_frozen_parameters_ratio{" not in (await world.client.get("/metrics")).text


async def test_totals_outlive_the_jobs(world: Any) -> None:
    job_id = await world.submit()
    fence = world.run(job_id)
    summary = {"flops_saved": 2.5e15}
    world.store.update(job_id, lambda r, t: state.finish(r, t, fence=fence, status="succeeded", summary=summary))
    lines = (await world.client.get("/metrics")).text.splitlines()
    for line in (
        "smartfrz_job_queue_wait_seconds_count 1.0",
        'smartfrz_job_queue_wait_seconds_bucket{le="60"} 1.0',
        'smartfrz_job_run_duration_seconds_bucket{le="+Inf",status="succeeded"} 1.0',
        'smartfrz_job_run_duration_seconds_count{status="failed"} 0.0',
        "smartfrz_flops_saved_total 2.5e+15",
    ):
        assert line in lines, line
    await world.client.delete(f"/v1/jobs/{job_id}")
    assert (await world.client.get("/metrics")).text.splitlines().count("smartfrz_flops_saved_total 2.5e+15") == 1


async def test_version(world: Any) -> None:
    assert (await get(world, "/v1/version"))["api_version"] == "v1"
