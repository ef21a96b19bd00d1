"""Workloads whose runs start from a job that trains first: against the real API, with a worker that the test plays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from comparison_worker import Heard, Worker
from comparisons import DIGITS, definition, record, report

from client.compare import ComparisonError, Folder, Run, analyse, execute, expand, parse
from client.compare.expand import starts_of
from client.compare.private import need_packages
from client.compare.work import Todo, next_of
from workers.jobs.layout import JobFiles
from workers.packages import DataPackageMissing

if TYPE_CHECKING:
    from client.conftest import Service

START = DIGITS | {"data": {"name": "mnist5k", "options": {"classes": [0, 1, 2, 3, 4]}}}
TUNED = DIGITS | {"start": START}
ARMS = {"full": {}, "linear": {"freeze.policy": "linear"}}


def started(**changes: Any) -> dict[str, Any]:
    return definition(**{"arms": ARMS, "workloads": {"digits": TUNED}, **changes})


def runs_of(document: dict[str, Any]) -> tuple[Run, ...]:
    return expand(parse(document))


@pytest.fixture
def go(service: Service, tmp_path: Path) -> Callable[..., Any]:
    def run(worker: Worker, document: dict[str, Any] | None = None, **options: Any) -> Any:
        with service.client() as client:
            folder = Folder(tmp_path / "out")
            options = {"healthy": worker, "poll_seconds": 0.01, **options}
            return execute(runs_of(document or started()), client, folder, **options)

    return run


def kept(tmp_path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "runs" / f"{name}.json").read_text())
    return found


# --- what the file may say


def test_a_start_does_not_see_what_its_runs_are_scored_on() -> None:
    runs = runs_of(started(test_from="train"))
    specs = [run.spec for run in (*runs, *starts_of(runs))]
    assert {spec["data"]["test_from"] for spec in specs} == {"train"}
    assert not {run.digest for run in runs} & {run.digest for run in runs_of(started())}
    assert [run.digest for run in runs_of(started(test_from="test"))] == [run.digest for run in runs_of(started())]


@pytest.mark.parametrize(
    ("workload", "pointer"),
    [
        (DIGITS | {"start": "job_1"}, "/start"),
        (DIGITS | {"start": START | {"freeze": {}}}, "/start/freeze"),
        (DIGITS | {"start": START | {"training": {"seed": 1}}}, "/start/training/seed"),
        (DIGITS | {"start": START | {"training": {"epochs": 0}}}, "/start/training/epochs"),
        (DIGITS | {"start": START | {"seeds": [1]}}, "/start/seeds"),
        (DIGITS | {"start": TUNED}, "/start/start"),
        (DIGITS | {"start": {"model": {"name": "vgg-small"}}}, "/start/data"),
        (TUNED | {"model": {"name": "vgg-small", "init_from": "job_1"}}, "/model/init_from"),
        (TUNED | {"model": {"name": "vgg-small", "path": "mine"}}, "/model/path"),
    ],
)
def test_the_place_of_a_fault_is_named(workload: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        runs_of(definition(workloads={"a": workload}))
    assert caught.value.pointer == f"/workloads/a{pointer}"


def test_an_arm_neither_names_other_weights_nor_is_called_as_starts_are() -> None:
    with pytest.raises(ComparisonError) as caught:
        runs_of(started(arms={"full": {}, "x": {"freeze.policy": "linear", "model.init_from": "job_1"}}))
    assert caught.value.pointer == "/arms/x/model/init_from"
    arms = {"full": {}, "start": {"freeze.policy": "linear"}}
    with pytest.raises(ComparisonError) as caught:
        runs_of(started(arms=arms))
    assert caught.value.pointer == "/arms/start"
    assert len(runs_of(definition(arms=arms))) == 4, "other comparisons may have had such an arm"


def test_a_path_that_names_the_network_may_stand_beside_a_start() -> None:
    model = {"name": "transformers", "path": "owner/name"}
    assert runs_of(started(workloads={"a": TUNED | {"model": model}}))


# --- digests


def test_digests_of_workloads_without_start_are_those_of_reports_that_are_kept() -> None:
    """Hours of runs are kept by digest: this one must never change."""
    linear = next(run for run in runs_of(definition()) if run.arm == "linear")
    assert linear.digest == "9bff8eb4389824fbe980fdf0f74e68bde77f806cd53c648f5cfc1e70c5051675"


def test_a_digest_knows_the_start_but_not_its_job() -> None:
    first, second = (run for run in runs_of(started()) if run.arm == "full")
    assert first.start is not None
    assert second.start is not None
    assert [first.start.spec["training"]["seed"], second.start.spec["training"]["seed"]] == [0, 1]
    assert first.start.spec["freeze"] == {"policy": "none"}
    assert first.start.spec["name"] == "digits/start/0"
    assert "init_from" not in first.spec["model"]
    submitted = first.from_job("job_1")
    assert submitted.spec["model"] == {"name": "vgg-small", "init_from": "job_1"}
    assert submitted.digest == first.digest

    def digests(start: dict[str, Any] | None, **more: Any) -> set[str]:
        workload = DIGITS if start is None else DIGITS | {"start": start}
        return {run.digest for run in runs_of(started(workloads={"digits": workload}, **more))}

    ours = {run.digest for run in runs_of(started())}
    assert digests(START, name="renamed") == ours
    assert digests(START | {"name": "mine", "metadata": {"a": "b"}}) == ours
    assert not ours & digests(None)
    assert not ours & digests(START | {"training": {"epochs": 5}})


def test_each_start_is_named_once_and_shortening_leaves_it_alone() -> None:
    runs = runs_of(started(arms={"full": {}, "shorter": {"fractions": [0.5]}}))
    assert [start.id for start in starts_of(runs)] == ["digits--start--0", "digits--start--1"]
    shorter = next(run for run in runs if run.arm == "shorter-0.5")
    assert shorter.spec["training"]["max_steps"] == 80  # half of the 4 epochs of 640 / 16 steps
    assert shorter.start is not None
    assert "max_steps" not in shorter.start.spec["training"]


# --- order


def test_runs_wait_for_their_start_and_others_go_on() -> None:
    runs = runs_of(started(seeds=[0], workloads={"tuned": TUNED, "plain": DIGITS}))
    todo = [Todo(run, 0) for run in runs]

    def title(there: Sequence[str], under_way: Sequence[str], of: list[Todo] = todo) -> str | None:
        found = next_of(of, there, under_way)
        return None if found is None else found.id

    assert title([], []) == "tuned--start--0"
    assert title([], ["tuned--start--0"]) == "plain--full--0"
    assert title(["tuned--start--0"], []) == "tuned--full--0"
    assert title([], ["tuned--start--0"], todo[:2]) is None


def test_a_start_is_run_once_for_each_seed_and_its_job_filled_in(
    go: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    worker, heard, done = Worker(service), Heard(), []
    outcome = go(worker, screen=heard, done=done.append)
    assert worker.did == [f"digits/{arm}/{seed}" for seed in (0, 1) for arm in ("start", "full", "linear")]
    assert outcome.succeeded == [f"digits--{arm}--{seed}" for seed in (0, 1) for arm in ("full", "linear")]
    assert [(name, position) for name, position, of, _ in heard.ends if of == 4] == [
        ("digits--start--0", 0),
        ("digits--full--0", 1),
        ("digits--linear--0", 2),
        ("digits--start--1", 2),
        ("digits--full--1", 3),
        ("digits--linear--1", 4),
    ]
    start, full, linear = (kept(tmp_path, f"digits--{arm}--0") for arm in ("start", "full", "linear"))
    with service.client() as client:
        for run in (full, linear):
            assert client.get(run["job_id"])["spec"]["model"]["init_from"] == start["job_id"]
    assert "init_from" not in full["spec"]["model"]
    assert full["start"] == start["spec"]
    assert start["report"]["accuracy"] == 0.9
    assert done[:3] == [full["job_id"], linear["job_id"], start["job_id"]], "its files stay until the last has ended"
    assert go(Worker(service)).before == outcome.succeeded


def test_with_several_workers_nothing_is_run_before_its_start(go: Callable[..., Any], service: Service) -> None:
    worker = Worker(service)
    workloads = {"tuned": TUNED, "plain": DIGITS}
    outcome = go(worker, started(workloads=workloads, seeds=[0]), workers=3)
    assert len(outcome.succeeded) == 4
    assert worker.did == ["tuned/start/0", "plain/full/0", "plain/linear/0", "tuned/full/0", "tuned/linear/0"]


# --- failure and resumption


def test_a_start_that_fails_takes_its_runs_along_and_no_others(
    go: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    document = started(workloads={"tuned": TUNED, "plain": DIGITS}, seeds=[0])
    worker, heard = Worker(service, failing=("start",)), Heard()
    outcome = go(worker, document, screen=heard)
    assert worker.did == ["tuned/start/0", "plain/full/0", "plain/linear/0"]
    assert outcome.failed == ["tuned--full--0", "tuned--linear--0"]
    assert outcome.succeeded == ["plain--full--0", "plain--linear--0"]
    error = kept(tmp_path, "tuned--linear--0")["error"]
    assert error == "what it starts from, tuned/start/0, failed: host_oom: too little memory"
    assert [position for _, position, _, _ in heard.ends] == [0, 1, 2, 3, 4]
    second = Worker(service)
    assert go(second, document).succeeded == ["tuned--full--0", "tuned--linear--0"]
    assert second.did == ["tuned/start/0", "tuned/full/0", "tuned/linear/0"]


def test_a_start_without_weights_has_failed(go: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    worker = Worker(service)
    worker.leaves_weights = False
    assert len(go(worker).failed) == 4
    assert "the job left no model.safetensors" in kept(tmp_path, "digits--full--0")["error"]


@pytest.mark.parametrize("days_later", [False, True])
@pytest.mark.parametrize("most", [0, 1, 2])
def test_an_interrupted_comparison_finds_starts_and_runs_again(
    go: Callable[..., Any], service: Service, tmp_path: Path, most: int, days_later: bool
) -> None:
    """Interrupted while the start is under way, the first run, the second."""
    with pytest.raises(KeyboardInterrupt):
        go(Worker(service, most=most))
    if days_later:
        service.store._idempotency.clear()
    before = [kept(tmp_path, "digits--start--0")] if most else []
    second = Worker(service)
    go(second)
    every = [f"digits/{arm}/{seed}" for seed in (0, 1) for arm in ("start", "full", "linear")]
    assert second.did == every[most:], "nothing is done twice"
    assert all(kept(tmp_path, "digits--start--0") == record for record in before), "with the seconds that it took"


def test_a_start_whose_weights_are_gone_is_trained_anew(
    go: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    """Its runs are new requests then, though a job of theirs is under way."""
    with pytest.raises(KeyboardInterrupt):
        go(Worker(service, most=1), started(seeds=[0]))
    weights = JobFiles(service.home, kept(tmp_path, "digits--start--0")["job_id"]).weights
    assert weights is not None
    weights.unlink()
    assert len(go(Worker(service), started(seeds=[0])).failed) == 2
    third = Worker(service)
    assert len(go(third, started(seeds=[0])).succeeded) == 2
    assert third.did == ["digits/start/0", "digits/full/0", "digits/linear/0"]


def test_another_service_gets_the_start_anew(go: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    """As a private stack does, which is emptied at each call: what is done stays, the start is run again."""
    with pytest.raises(KeyboardInterrupt):
        go(Worker(service, most=2))
    with service.client() as client:  # another service knows none of its jobs
        for job in client.list(limit=99)["data"]:
            if job["status"] == "queued":
                client.cancel(job["id"])
            client.delete(job["id"])
    second = Worker(service)
    outcome = go(second)
    assert second.did[:2] == ["digits/start/0", "digits/linear/0"]
    assert outcome.before == ["digits--full--0"]


def test_a_start_known_from_another_machine_is_trained_for_the_runs_that_need_it(
    go: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    """What is told of it there names no job here."""
    document, folder = started(seeds=[0]), Folder(tmp_path / "out")
    (start,) = starts_of(runs_of(document))
    folder.write(start, {"status": "succeeded", "error": None, "tries": 1, "report": report(0.75, 100.0)})
    worker = Worker(service)
    assert len(go(worker, document).succeeded) == 2
    assert worker.did[0] == "digits/start/0"
    assert kept(tmp_path, "digits--start--0")["job_id"]


def test_a_start_is_run_only_where_a_run_needs_it(go: Callable[..., Any], service: Service) -> None:
    go(Worker(service))
    extra = {**ARMS, "random": {"freeze": {"policy": "random", "options": {"share": 0.3}}, "workloads": {"a": False}}}
    document = started(arms=extra, workloads={"digits": TUNED, "a": TUNED | {"seeds": [7]}})
    worker = Worker(service)
    go(worker, document)
    assert worker.did == [
        *(f"digits/random/{seed}" for seed in (0,)),
        *(f"a/{arm}/7" for arm in ("start", "full", "linear")),
        "digits/random/1",
    ], "the service still has the starts of digits"


def test_a_changed_start_runs_all_that_depend_on_it(go: Callable[..., Any], service: Service) -> None:
    go(Worker(service))
    worker = Worker(service)
    changed = TUNED | {"start": START | {"training": {"epochs": 9, "batch_size": 16}}}
    outcome = go(worker, started(workloads={"digits": changed}))
    assert outcome.before == []
    assert len(worker.did) == 6


def test_again_trains_the_start_anew(go: Callable[..., Any], service: Service) -> None:
    go(Worker(service))
    worker = Worker(service)
    assert len(go(worker, again=True).succeeded) == 4
    assert len(worker.did) == 6


# --- what the service and this machine must have


def test_a_start_that_the_service_refuses_is_told_before_anything_runs(
    go: Callable[..., Any], service: Service
) -> None:
    worker = Worker(service)
    refused = TUNED | {"start": START | {"model": {"name": "none-such"}}}
    with pytest.raises(ComparisonError) as caught:
        go(worker, started(workloads={"digits": refused}))
    assert caught.value.pointer == "/workloads/digits/start"
    assert worker.did == []


def test_data_of_a_start_is_needed_too(tmp_path: Path) -> None:
    start = START | {"data": {"name": "20newsgroups"}}
    starts = starts_of(runs_of(started(workloads={"digits": DIGITS | {"start": start}})))
    with pytest.raises(DataPackageMissing, match="smartfrz data fetch 20newsgroups"):
        need_packages(starts, tmp_path)


def test_starts_are_told_beside_the_table(tmp_path: Path) -> None:
    comparison = parse(started(seeds=[0]))
    runs, folder = expand(comparison), Folder(tmp_path)
    for run in (*runs, *starts_of(runs)):
        folder.write(run, record(run, report(0.75, 100.0, seconds=8.0)))
    document = analyse(comparison, runs, folder.results(runs))
    assert document["starts"] == [{"workload": "digits", "seed": 0, "accuracy": 0.75, "seconds": 8.0}]
    assert {row["arm"] for row in document["table"]} == set(ARMS)
    assert [run["arm"] for run in document["runs"]] == list(ARMS)
    plain = parse(definition())
    assert analyse(plain, expand(plain), {})["starts"] == []
