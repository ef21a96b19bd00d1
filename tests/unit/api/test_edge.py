"""Keys, errors, limits: what holds for every request."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from api.auth import Keys, KeyUnavailable, is_loopback, load_keys
from api.settings import ApiSettings

PROBLEM = "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/metrics", "/openapi.json", "/v1/version", "/nowhere"])
@pytest.mark.parametrize("header", [None, "Bearer wrong-key-0123456789", "Basic test-key-0123456789", "Bearer ", "x"])
async def test_every_path_needs_the_key(world: Any, path: str, header: str | None) -> None:
    async with world.connect(**({"Authorization": header} if header else {})) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (401, PROBLEM, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_probes_and_the_shell_of_the_docs_are_open(world: Any) -> None:
    async with world.connect() as client:
        for path in ("/livez", "/readyz", "/docs"):
            assert (await client.get(path)).status_code == 200, path
        page = (await client.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page


async def test_readyz_tells_of_a_store_that_is_down_and_livez_does_not(world: Any) -> None:
    world.store.available = False
    async with world.connect() as client:
        ready, live = await client.get("/readyz"), await client.get("/livez")
    assert (ready.status_code, live.status_code) == (503, 200)
    assert ready.headers["retry-after"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "NOT_FOUND"),
        ("PUT", "/v1/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/jobs", 422, "VALIDATION_FAILED"),
        ("GET", "/v1/jobs?limit=many", 422, "VALIDATION_FAILED"),
    ],
)
async def test_every_error_is_a_problem(world: Any, method: str, path: str, status: int, code: str) -> None:
    answer = await world.client.request(method, path)
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"], body["code"]) == (status, PROBLEM, code)
    assert body["instance"] == path.partition("?")[0]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "request_id", "metadata", "errors"}


async def test_an_unexpected_error_is_500_without_a_traceback(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(world.store, "counts", broken)
    answer = await world.client.get("/v1/queues")
    assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (500, PROBLEM, "INTERNAL")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


async def test_broken_json_is_422_at_the_root(world: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await world.client.post("/v1/jobs", content=b'{"name": ', headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "")


async def test_a_body_over_the_limit_is_413_declared_or_not(make_world: Any) -> None:
    world = make_world(max_body_bytes=2048)

    async def chunks() -> Any:
        for _ in range(10):
            yield b"x" * 1024

    async with world.client as client:
        for content in (b"x" * 4096, chunks()):
            answer = await client.post("/v1/jobs", content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")


async def test_a_request_id_is_made_or_taken_over(world: Any) -> None:
    made = await world.client.get("/livez")
    taken = await world.client.get("/livez", headers={"X-Request-Id": "mine-1"})
    refused = await world.client.get("/livez", headers={"X-Request-Id": "a b\t<script>"})
    assert made.headers["x-request-id"].startswith("req_")
    assert taken.headers["x-request-id"] == "mine-1"
    assert refused.headers["x-request-id"].startswith("req_")


async def test_openapi_names_the_problem_and_the_key(world: Any) -> None:
    document = (await world.client.get("/openapi.json")).json()
    create = document["paths"]["/v1/jobs"]["post"]
    assert create["responses"]["default"]["content"][PROBLEM]["schema"]["$ref"] == "#/components/schemas/ProblemBody"
    assert "422" not in create["responses"]
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    text = str(document)
    for name in document["components"]["schemas"]:
        assert name not in ("HTTPValidationError", "ValidationError")
    for reference in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"], reference


def test_the_first_start_makes_a_key_that_only_the_owner_reads(tmp_path: Path) -> None:
    settings = ApiSettings(home=tmp_path / "home")
    keys = load_keys(settings)
    path = tmp_path / "home" / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    assert keys.accepts(f"Bearer {key}")
    assert key not in repr(keys)
    assert load_keys(settings) == keys
    assert [p.name for p in path.parent.iterdir()] == ["admin.key"]


def test_the_environment_wins_over_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-the-file-0123\n")
    monkeypatch.setenv("SMARTFRZ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SMARTFRZ_ADMIN_KEY_FILE", str(secret))
    assert load_keys(ApiSettings()) == Keys.of("from-the-file-0123")
    monkeypatch.setenv("SMARTFRZ_ADMIN_KEY", "from-the-variable-0")
    assert load_keys(ApiSettings()) == Keys.of("from-the-variable-0")
    assert not (tmp_path / "home").exists()


def test_without_a_key_there_is_no_service(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyUnavailable, match="SMARTFRZ_ADMIN_KEY"):
        load_keys(ApiSettings(home=tmp_path / "file"))
    with pytest.raises(KeyUnavailable, match="cannot read"):
        load_keys(ApiSettings(home=tmp_path, admin_key_file=tmp_path / "missing"))
    (tmp_path / "short").write_text("short")
    with pytest.raises(KeyUnavailable, match="shorter"):
        load_keys(ApiSettings(home=tmp_path, admin_key_file=tmp_path / "short"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("api", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_words_of_an_unknown_field_are_for_users(world: Any) -> None:
    body = {"name": "x", "model": {"name": "resnet-small"}, "data": {"name": "mnist5k"}, "training": {"epoch": 3}}
    answer = await world.client.post("/v1/jobs", json=body)
    assert answer.json()["errors"] == [
        {"pointer": "/training/epoch", "detail": "unknown field", "code": "EXTRA_FORBIDDEN"}
    ]


async def test_made_up_methods_make_no_series(world: Any) -> None:
    async with world.connect() as stranger:
        for method in ("FOO", "BAR"):
            assert (await stranger.request(method, "/v1/jobs")).status_code == 401
    text = (await world.client.get("/metrics")).text
    assert "FOO" not in text
    assert 'code="401",method="(other)",route="(none)"} 2.0' in text


async def test_a_405_names_every_method_of_the_path(world: Any) -> None:
    for path, methods in (
        ("/v1/jobs", "GET, HEAD, POST"),
        ("/v1/jobs/job_0", "DELETE, GET, HEAD"),
        ("/livez", "GET, HEAD"),
    ):
        answer = await world.client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
        assert methods in answer.json()["detail"]


async def test_a_404_of_a_path_says_where_the_paths_are(world: Any) -> None:
    for path in ("/v1/jobs/", "/v1/nowhere"):
        detail = (await world.client.get(path)).json()["detail"]
        assert "/openapi.json" in detail
        assert ("slash" in detail) == path.endswith("/")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/jobs", "/v1/models/resnet-small", "/metrics", "/openapi.json"]
)
async def test_head_is_get_without_the_body(world: Any, path: str) -> None:
    head, get = await world.client.head(path), await world.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_head_of_what_is_not_there_or_not_allowed_has_no_body_either(world: Any) -> None:
    async with world.connect() as stranger:
        refused = await stranger.head("/v1/jobs")
    missing = await world.client.head("/v1/jobs/job_0")
    assert [(answer.status_code, answer.content) for answer in (refused, missing)] == [(401, b""), (404, b"")]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonish"])
async def test_a_body_that_is_not_sent_as_json_is_a_415_that_says_how(
    world: Any, make_spec: Any, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await world.client.post("/v1/jobs", content=json.dumps(make_spec()), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
async def test_json_is_known_by_its_type(world: Any, make_spec: Any, kind: str) -> None:
    answer = await world.client.post("/v1/jobs", content=json.dumps(make_spec()), headers={"Content-Type": kind})
    assert answer.status_code == 201


async def test_a_compressed_body_is_a_415(world: Any, make_spec: Any) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps(make_spec()).encode())
    answer = await world.client.post("/v1/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "as it is" in answer.json()["detail"]


async def test_openapi_gives_every_error_its_body(world: Any) -> None:
    document = (await world.client.get("/openapi.json")).json()
    told = [
        response
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if status == "default" or status >= "400"
    ]
    assert len(told) > len(document["paths"])
    assert all(PROBLEM in response["content"] for response in told)


async def test_openapi_tells_of_files_filters_and_a_whole_spec(world: Any, make_world: Any) -> None:
    document = (await world.client.get("/openapi.json")).json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    file = paths["/v1/jobs/{job_id}/artifacts/{path}"]["get"]["responses"]
    assert [list(file[status]["content"]) for status in ("200", "206", "416")] == [["application/octet-stream"]] * 2 + [
        [PROBLEM]
    ]
    (metadata,) = [p for p in paths["/v1/jobs"]["get"]["parameters"] if p["name"] == "metadata"]
    assert (metadata["style"], metadata["explode"]) == ("deepObject", True)
    (example,) = schemas["JobSpec"]["examples"]
    assert (await world.client.post("/v1/jobs", json=example)).status_code == 201
