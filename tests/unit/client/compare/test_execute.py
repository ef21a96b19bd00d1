"""Running a comparison against the real API, with a worker that the test plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from comparison_worker import Heard, Worker
from comparisons import definition

from client.api import Client
from client.compare import ComparisonError, Folder, execute, expand, parse
from client.compare.folder import standing
from client.compare.progress import eta_seconds
from client.errors import Unreachable

if TYPE_CHECKING:
    from client.conftest import Service

ARMS = {"full": {}, "linear": {"freeze.policy": "linear"}}


@pytest.fixture
def go(service: Service, tmp_path: Path) -> Callable[..., Any]:
    def run(worker: Worker, document: dict[str, Any] | None = None, **options: Any) -> Any:
        runs = expand(parse(document or definition(arms=ARMS)))
        with service.client() as client:
            return execute(runs, client, Folder(tmp_path / "out"), healthy=worker, poll_seconds=0.01, **options)

    return run


def test_every_run_is_a_job_and_leaves_its_report(go: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    worker, heard, done = Worker(service), Heard(), []
    outcome = go(worker, screen=heard, done=done.append)
    order = ["digits/full/0", "digits/linear/0", "digits/full/1", "digits/linear/1"]
    assert worker.did == order
    assert outcome.succeeded == [name.replace("/", "--") for name in order]
    assert [(position, of, eta) for _, position, of, eta in heard.ends] == [
        (1, 4, True),
        (2, 4, True),
        (3, 4, True),
        (4, 4, False),
    ]
    record = json.loads((tmp_path / "out" / "runs" / "digits--linear--1.json").read_text())
    assert record["report"]["accuracy"] == 0.9
    assert record["job_id"] == done[3]
    with service.client() as client:
        assert client.get(done[3])["metadata"] == {
            "comparison": "small",
            "workload": "digits",
            "arm": "linear",
            "seed": "1",
        }
    assert not [path for path in (tmp_path / "out" / "runs").iterdir() if path.name.endswith(".report")]


def test_an_interrupted_comparison_goes_on_where_it_was(go: Callable[..., Any], service: Service) -> None:
    first = Worker(service, most=1)
    with pytest.raises(KeyboardInterrupt):
        go(first)
    assert first.did == ["digits/full/0"]
    second = Worker(service)
    outcome = go(second)
    assert outcome.before == ["digits--full--0"]
    assert second.did == ["digits/linear/0", "digits/full/1", "digits/linear/1"]  # the one under way, once


def later(service: Service) -> None:
    """More than 24 hours pass: the service has forgotten the keys."""
    assert service.store._idempotency
    service.store._idempotency.clear()


def test_it_goes_on_after_days(go: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(Worker(service, most=1))
    later(service)
    second = Worker(service)
    outcome = go(second)
    assert second.did == ["digits/linear/0", "digits/full/1", "digits/linear/1"]
    assert len(outcome.succeeded) == 3
    assert len(service.store.list(limit=99)[0]) == 4, "no job was submitted twice"
    assert not list((tmp_path / "out" / "runs").glob(".*.job"))


@pytest.mark.parametrize("gone", [False, True])
def test_a_job_that_will_not_succeed_is_submitted_again(go: Callable[..., Any], service: Service, gone: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(Worker(service, most=1))
    later(service)
    with service.client() as client:
        (job,) = client.list(status=["queued"])["data"]
        client.cancel(job["id"])
        if gone:
            client.delete(job["id"])
    second = Worker(service)
    go(second)
    assert second.did == ["digits/linear/0", "digits/full/1", "digits/linear/1"]


def test_a_note_is_of_one_request_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    run, folder = expand(parse(definition()))[0], Folder(tmp_path)
    assert folder.noted(run, "k") is None
    folder.note(run, "k", "job_1")
    assert (folder.noted(run, "k"), folder.noted(run, "other")) == ("job_1", None)
    folder.write(run, {"status": "failed"})
    assert folder.noted(run, "k") is None
    (folder.runs / f".{run.id}.job").write_text("[")
    assert folder.noted(run, "k") is None


def test_a_failed_run_stops_no_other_and_is_tried_again(go: Callable[..., Any], service: Service) -> None:
    outcome = go(Worker(service, failing=("linear",)))
    assert outcome.failed == ["digits--linear--0", "digits--linear--1"]
    assert len(outcome.succeeded) == 2
    heard = Heard()
    later = go(Worker(service), screen=heard)
    assert later.succeeded == ["digits--linear--0", "digits--linear--1"]
    assert "digits--linear--0: failed before; tried again" in heard.notes


def test_a_changed_spec_is_run_again_and_said(go: Callable[..., Any], service: Service) -> None:
    go(Worker(service))
    heard = Heard()
    changed = definition(arms={"full": {}, "linear": {"freeze": {"policy": "linear", "options": {"level": 0.5}}}})
    outcome = go(Worker(service), changed, screen=heard)
    assert outcome.before == ["digits--full--0", "digits--full--1"]
    assert heard.notes[0].startswith("digits--linear--0: its spec is not the one")


def test_again_runs_all(go: Callable[..., Any], service: Service) -> None:
    go(Worker(service))
    assert go(Worker(service)).succeeded == []
    worker = Worker(service)
    assert len(go(worker, again=True).succeeded) == 4
    assert len(worker.did) == 4


def test_a_job_without_a_report_is_a_failure(go: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    class Silently(Worker):
        def _end(self, job: dict[str, Any]) -> None:
            self.service.start(job["id"])
            self.service.finish(job["id"])

    outcome = go(Silently(service))
    assert len(outcome.failed) == 4


def test_what_the_service_refuses_is_refused_before_anything_runs(go: Callable[..., Any], service: Service) -> None:
    worker = Worker(service)
    arms = {"full": {}, "static": {"freeze": {"policy": "static"}}}
    with pytest.raises(ComparisonError, match="exactly one of the options") as caught:
        go(worker, definition(arms=arms))
    assert caught.value.pointer == "/arms/static"
    assert worker.did == []


@pytest.mark.parametrize(("patience", "comes_through"), [(60.0, True), (0.0, False)])
def test_a_service_may_be_away_for_a_while(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float, comes_through: bool
) -> None:
    away = iter([True, True, False, True])
    get = Client.get

    def sometimes(client: Client, job_id: str) -> Any:
        if next(away, False):
            raise Unreachable("no answer")
        return get(client, job_id)

    monkeypatch.setattr(Client, "get", sometimes)
    runs = expand(parse(definition(arms=ARMS, seeds=[0])))
    folder, worker = Folder(tmp_path / "out"), Worker(service)
    with service.client() as client:
        if comes_through:
            outcome = execute(runs, client, folder, healthy=worker, poll_seconds=0.01, patience_seconds=patience)
            assert outcome.succeeded == ["digits--full--0", "digits--linear--0"]
            assert worker.did == ["digits/full/0", "digits/linear/0"]
        else:
            with pytest.raises(Unreachable):
                execute(runs, client, folder, healthy=worker, poll_seconds=0.01, patience_seconds=patience)


def test_standing_of_a_run() -> None:
    run = expand(parse(definition()))[0]
    same = {"digest": run.digest, "status": "succeeded"}
    assert standing(run, None, again=False) == "new"
    assert standing(run, same, again=False) == "done"
    assert standing(run, same, again=True) == "again"
    assert standing(run, same | {"status": "cancelled"}, again=False) == "failed"
    assert standing(run, same | {"digest": "x"}, again=False) == "changed"


def test_a_damaged_record_counts_as_none_and_folders_measure_anew(tmp_path: Path) -> None:
    run = expand(parse(definition()))[0]
    one, two = Folder(tmp_path / "1"), Folder(tmp_path / "2")
    one.path(run).write_text("{")
    assert one.read(run) is None
    assert one.idempotency_key(run, 0) == Folder(tmp_path / "1").idempotency_key(run, 0)
    assert len({one.idempotency_key(run, 0), one.idempotency_key(run, 1), two.idempotency_key(run, 0)}) == 3


def test_a_name_that_was_being_written_when_it_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    one, two = Folder(tmp_path / "1"), Folder(tmp_path / "2")
    for folder in (one, two):
        (folder.runs / ".token").touch()
    assert len({one.token(), two.token(), ""}) == 3
    assert one.token() == Folder(tmp_path / "1").token()


def test_the_estimate_knows_arms_before_workloads() -> None:
    runs = expand(parse(definition(seeds=[0])))
    assert eta_seconds(runs, {}, 1) is None
    took = {("digits", "full"): [10.0, 20.0], ("other", "full"): [99.0]}
    assert eta_seconds(runs, took, 1) == 75.0
    assert eta_seconds(runs, took, 3) == 25.0
    assert eta_seconds(runs[:1], {("other", "x"): [4.0]}, 1) == 4.0
