"""The command line against the real API: what it prints, and how it exits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.api import Client
from client.cli.app import app
from client.cli.follow import follow_logs
from client.errors import Unreachable
from client.requests import RetryPolicy
from workers.jobs.record import WorkerInfo

if TYPE_CHECKING:
    from conftest import Service

Cli = Callable[..., Result]
Start = Callable[[Callable[[], Any]], threading.Thread]


@pytest.fixture
def job_id(service: Service) -> str:
    with service.client() as client:
        return str(client.submit(service.spec)["id"])


def test_submit_from_a_file_with_overrides(service: Service, smartfrz: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "job.toml"
    spec.write_text('name = "a"\n[model]\nname = "minilm-l6"\n[data]\nname = "20newsgroups"\n')
    done = smartfrz("submit", str(spec), "--set", "training.epochs=7", "-q")
    assert done.exit_code == 0, done.output
    assert service.store.get(done.stdout.strip()).spec.training.epochs == 7


def test_submit_from_stdin_prints_the_job_as_json(service: Service, smartfrz: Cli) -> None:
    done = smartfrz("submit", "-", "-o", "json", stdin=json.dumps(service.spec))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "queued"


def test_validate_only_creates_nothing(service: Service, smartfrz: Cli) -> None:
    done = smartfrz("submit", "-", "--validate-only", stdin=json.dumps(service.spec))
    assert (done.exit_code, done.stdout) == (0, "the spec is valid\n")
    assert service.store.counts().get("queued", 0) == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [("model.name=nope", "/model/name"), ("training.epoch=1", "/training/epoch"), ("name", "--set wants")],
)
def test_a_bad_spec_exits_2_and_says_where(service: Service, smartfrz: Cli, override: str, words: str) -> None:
    done = smartfrz("submit", "-", "--set", override, stdin=json.dumps(service.spec))
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_ls_and_get_show_a_job(service: Service, smartfrz: Cli, job_id: str) -> None:
    service.start(job_id)
    listed = smartfrz("ls").stdout
    assert job_id in listed
    assert "1/10" in listed
    assert "running" in smartfrz("get", job_id).stdout
    assert smartfrz("ls", "-q", "-s", "running").stdout == f"{job_id}\n"
    assert smartfrz("ls", "-q", "-s", "failed").stdout == ""
    assert json.loads(smartfrz("get", job_id, "-o", "json").stdout)["progress"]["step"] == 1


def test_a_narrow_table_keeps_ids_whole_and_says_why_a_job_failed(
    service: Service, smartfrz: Cli, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    service.start(job_id)
    service.finish(job_id, "failed", reason="code_error", message="boom")
    shown = smartfrz("ls").stdout
    assert job_id in shown
    assert "code_error" in shown
    assert max(map(len, shown.splitlines())) <= 72


def test_a_waiting_job_shows_no_progress(smartfrz: Cli, job_id: str) -> None:
    lines = smartfrz("get", job_id).stdout.splitlines()
    assert lines[0].split() == ["id", job_id], "no empty head"
    assert not {"progress", "attempt", "running"} & {line.split()[0] for line in lines}


def test_an_unknown_job_exits_1_without_a_traceback(smartfrz: Cli) -> None:
    done = smartfrz("get", "job_000")
    assert done.exit_code == 1
    assert "JOB_NOT_FOUND (404)" in done.stderr


def test_no_service_known_exits_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SMARTFRZ_URL", "SMARTFRZ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["--home", str(tmp_path), "ls"])
    assert done.exit_code == 2
    assert "smartfrz up" in done.stderr


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_wait_exits_as_the_job_ended(service: Service, smartfrz: Cli, job_id: str, status: str, code: int) -> None:
    service.start(job_id)
    service.finish(job_id, status)
    done = smartfrz("wait", job_id)
    assert done.exit_code == code
    assert status in done.stdout


def test_wait_exits_4_at_the_timeout_and_1_when_another_failed(service: Service, smartfrz: Cli, job_id: str) -> None:
    assert smartfrz("wait", job_id, "--timeout", "0.1").exit_code == 4
    with service.client() as client:
        other = client.submit(service.spec)["id"]
    service.start(other)
    service.finish(other, "failed")
    assert smartfrz("wait", job_id, other, "--timeout", "0.1").exit_code == 1


def test_cancel_may_be_repeated(smartfrz: Cli, job_id: str) -> None:
    for _ in range(2):
        done = smartfrz("cancel", job_id)
        assert (done.exit_code, done.stdout.split()[:2]) == (0, [job_id, "cancelled"])


def test_delete_takes_what_has_ended_and_nothing_else(service: Service, smartfrz: Cli, job_id: str) -> None:
    with service.client() as client:
        running = client.submit(service.spec)["id"]
    service.start(running)
    files = service.attempt(job_id, service.start(job_id))
    service.finish(job_id)
    done = smartfrz("delete", job_id, running)
    assert (done.exit_code, done.stdout) == (1, f"{job_id} deleted\n")
    assert "it is running; cancel it first" in done.stderr
    assert not files.root.parent.exists()
    assert smartfrz("ls", "-q").stdout == f"{running}\n"


def test_events_as_lines_and_as_json(service: Service, smartfrz: Cli, job_id: str) -> None:
    service.start(job_id)
    service.event(job_id, "unit.frozen", unit="encoder.0", index=1, step=30, probability=0.931, of=8)
    assert "encoder.0 (2 of 8) at step 30, probability 0.93" in smartfrz("events", job_id).stdout
    service.finish(job_id)
    live = [json.loads(line) for line in smartfrz("events", "-f", job_id, "-o", "json").stdout.splitlines()]
    assert [event["type"] for event in live][-2:] == ["unit.frozen", "job.succeeded"]


def test_logs_follow_from_one_attempt_into_the_next(
    service: Service, smartfrz: Cli, job_id: str, in_background: Start
) -> None:
    fence = service.start(job_id)
    log = service.attempt(job_id, fence).log(0)
    log.write_text("first\n")
    pieces: list[str] = []
    first = threading.Event()

    def write(text: str) -> None:
        pieces.append(text)
        first.set()

    def follow() -> None:
        with service.client() as client:
            follow_logs(client, job_id, rank=0, tail=None, follow=True, write=write, pause=0.02)

    thread = in_background(follow)
    assert first.wait(10)
    with log.open("a") as stream:
        stream.write("second\n")
    service.attempt(job_id, fence + 1).log(0).write_text("third\n")
    service.finish(job_id)
    thread.join(timeout=20)
    assert "".join(pieces) == "first\nsecond\nthird\n"
    assert smartfrz("logs", job_id, "--tail", "1").stdout == "third\n"
    assert smartfrz("logs", "-f", job_id).stdout == "third\n"


def test_submit_follow_shows_freezing_and_exits_as_wait(service: Service, smartfrz: Cli, in_background: Start) -> None:
    done: list[Result] = []
    thread = in_background(lambda: done.append(smartfrz("submit", "-", "--follow", stdin=json.dumps(service.spec))))
    job_id = service.submitted()
    service.start(job_id)
    service.event(job_id, "unit.frozen", unit="encoder.0", index=1, step=30, probability=0.931, of=8)
    service.finish(job_id, "failed", reason="code_error", message="ZeroDivisionError: boom")
    thread.join(timeout=20)
    assert done[0].exit_code == 1
    assert "frozen  encoder.0 (2 of 8) at step 30, probability 0.93" in done[0].stdout
    assert "failed (code_error): ZeroDivisionError: boom" in done[0].stdout


def test_ctrl_c_leaves_the_job_alone(
    service: Service, smartfrz: Cli, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    service.start(job_id)
    monkeypatch.setattr("client.cli.follow.event_line", interrupted)
    done = smartfrz("events", "-f", job_id)
    assert done.exit_code == 130
    assert f"smartfrz events -f {job_id}" in done.stderr
    assert service.store.get(job_id).status == "running"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that give up at once."""
    quick = partial(Client, policy=RetryPolicy(attempts=1), patience_seconds=0.0)
    monkeypatch.setattr("client.cli.context.Client", quick)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("command", "back"), [("wait", "wait"), ("logs -f", "logs -f"), ("events -f", "events -f"), ("get", None)]
)
def test_a_service_that_is_away_is_no_failed_job(
    service: Service, smartfrz: Cli, job_id: str, command: str, back: str | None
) -> None:
    service.store.available = False
    done = smartfrz(*command.split(), job_id)
    assert done.exit_code == 5
    assert "STORE_UNAVAILABLE" in done.stderr
    assert (f"Come back with: smartfrz {back} {job_id}" in done.stderr) is (back is not None)


@pytest.mark.usefixtures("impatient")
def test_submit_follow_says_how_to_come_back_when_the_service_goes(
    service: Service, smartfrz: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = service.store.create

    def then_away(*arguments: Any, **more: Any) -> Any:
        made = create(*arguments, **more)
        monkeypatch.setattr(service.store, "events", away)
        monkeypatch.setattr(Client, "get", away)
        return made

    def away(*_: object, **__: object) -> None:
        raise Unreachable("no answer")

    monkeypatch.setattr(service.store, "create", then_away)
    done = smartfrz("submit", "-", "--follow", stdin=json.dumps(service.spec))
    (job_id,) = (record.id for record in service.store.queued())
    assert done.exit_code == 5
    assert f"Come back with: smartfrz events -f {job_id}" in done.stderr


def test_following_a_log_bears_a_service_that_is_away(service: Service, job_id: str, in_background: Start) -> None:
    service.attempt(job_id, service.start(job_id)).log(0).write_text("line\n")
    service.finish(job_id)
    service.store.available = False
    pieces: list[str] = []

    def follow() -> None:
        with service.client(attempts=1) as client:
            follow_logs(client, job_id, rank=0, tail=None, follow=True, write=pieces.append, pause=0.01)

    thread = in_background(follow)
    thread.join(timeout=0.2)
    assert thread.is_alive(), "it waits while the service is away"
    service.store.available = True
    thread.join(timeout=20)
    assert pieces == ["line\n"]


def test_freeze_history_and_metrics(service: Service, smartfrz: Cli, job_id: str) -> None:
    fence = service.start(job_id)
    units = [
        {"name": "embed[0]", "index": 0, "state": "frozen", "probability": 0.9, "frozen_at_step": 3, "parameters": 10},
        {"name": "head", "index": 1, "state": "active", "parameters": 5},
    ]
    savings = {"estimated": {"flops_ratio": 0.75}}
    service.store.put_freeze(job_id, fence, {"step": 3, "policy": "smartfrz", "units": units, "savings": savings})
    service.store.append_decision(job_id, fence, {"step": 3, "frozen": ["embed[0]"], "thawed": []})
    service.attempt(job_id, fence).metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')

    shown = smartfrz("freeze", job_id).stdout
    assert "1 of 2 units frozen" in shown
    assert "embed[0]" in shown
    assert shown.splitlines()[-1].split() == ["flops", "ratio", "75.0%", "estimated"]
    assert smartfrz("freeze", job_id, "-q").stdout == "embed[0]\n"
    assert "embed[0]" in smartfrz("history", job_id).stdout
    row = smartfrz("metrics", job_id).stdout.splitlines()[1].split()
    assert row == ["loss", "2", "2", "1.5", "1.5", "2"]


def test_artifacts_are_listed_and_downloaded(service: Service, smartfrz: Cli, job_id: str, tmp_path: Path) -> None:
    folder = service.attempt(job_id, service.start(job_id)).artifacts
    (folder / "sub").mkdir()
    (folder / "sub" / "a b.txt").write_text("x")
    assert "sub/a b.txt" in smartfrz("artifacts", "list", job_id).stdout
    done = smartfrz("artifacts", "download", job_id, "--to", str(tmp_path / "got"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "got" / "sub" / "a b.txt").read_text() == "x"


def test_an_artifact_cannot_be_written_outside(smartfrz: Cli, job_id: str, tmp_path: Path) -> None:
    done = smartfrz("artifacts", "download", job_id, "../evil", "--to", str(tmp_path / "got"))
    assert done.exit_code == 1
    assert "outside" in done.stderr


@pytest.mark.parametrize(
    ("command", "word"), [("models", "minilm-l6"), ("datasets", "mnist5k"), ("policies", "linear")]
)
def test_the_catalog_is_listed(smartfrz: Cli, command: str, word: str) -> None:
    assert word in smartfrz(command, "-q").stdout.split()
    assert smartfrz(command).exit_code == 0


def test_workers_are_listed(service: Service, smartfrz: Cli) -> None:
    assert json.loads(smartfrz("workers", "-o", "json").stdout)["data"] == []
    at = service.store.now()
    info = WorkerInfo(id="w", host="h", pid=1, state="blocked", trouble="no room", started_at=at, heartbeat_at=at)
    service.store.put_worker(info, 60.0)
    shown = smartfrz("workers").stdout
    assert "blocked" in shown
    assert "no room" in shown


def test_doctor_finds_the_service(smartfrz: Cli) -> None:
    checks = {entry["what"]: entry for entry in json.loads(smartfrz("doctor", "-o", "json").stdout)["data"]}
    assert checks["service"]["level"] == "ok"
    assert checks["data mnist5k"]["level"] == "note"


def test_doctor_exits_1_when_the_key_is_wrong(smartfrz: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTFRZ_API_KEY", "a-wrong-key-0123456789")
    assert smartfrz("doctor").exit_code == 1


def test_data_list_says_what_is_missing(smartfrz: Cli, tmp_path: Path) -> None:
    listed = json.loads(smartfrz("data", "list", "-o", "json", "--dest", str(tmp_path)).stdout)["data"]
    assert not any(entry["here"] for entry in listed)
    done = smartfrz("data", "fetch", "no-such-package", "--dest", str(tmp_path))
    assert done.exit_code == 1
    assert "known: mnist5k" in done.stderr


def test_the_demo_without_its_data_names_the_command(smartfrz: Cli, tmp_path: Path) -> None:
    done = smartfrz("demo", "--dest", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "smartfrz data fetch minilm-l6" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_predictor_gets_its_arguments_in_a_process_of_its_own(
    smartfrz: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.cli.predictor.sys.executable", "/bin/echo")
    # echo prints to the real stdout, so only the exit code is seen here
    assert smartfrz("predictor", "train", "--epochs", "3", "--help").exit_code == 0
    monkeypatch.setattr("client.cli.predictor.sys.executable", "/bin/false")
    assert smartfrz("predictor", "train").exit_code == 1


def test_the_version_is_told(smartfrz: Cli) -> None:
    assert smartfrz("--version").stdout.startswith("smartfrz 0.")
