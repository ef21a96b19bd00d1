"""Several jobs in one command, and output that a program reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import Result

if TYPE_CHECKING:
    from conftest import Service

Cli = Callable[..., Result]
Start = Callable[[Callable[[], Any]], threading.Thread]


@pytest.fixture
def three(service: Service) -> list[str]:
    """Three jobs; the first has succeeded."""
    with service.client() as client:
        ids = [str(client.submit(service.spec)["id"]) for _ in range(3)]
    service.start(ids[0])
    service.finish(ids[0])
    return ids


def test_cancel_goes_on_after_a_job_that_cannot_be(service: Service, smartfrz: Cli, three: list[str]) -> None:
    done = smartfrz("cancel", *three)
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 2)
    assert f"cannot cancel job {three[0]}: it is succeeded" in done.stderr
    assert [service.store.get(job).status for job in three] == ["succeeded", "cancelled", "cancelled"]


def test_wait_goes_on_after_a_job_that_is_not_there(service: Service, smartfrz: Cli, three: list[str]) -> None:
    smartfrz("cancel", three[1])
    done = smartfrz("wait", three[0], "job_0", three[1])
    assert [line.split()[0] for line in done.stdout.splitlines()] == three[:2]
    assert "JOB_NOT_FOUND" in done.stderr
    assert done.exit_code == 1
    assert smartfrz("wait", "job_0", three[0]).exit_code == 1


def test_delete_goes_on_after_a_job_that_is_not_there(service: Service, smartfrz: Cli, three: list[str]) -> None:
    done = smartfrz("delete", "job_0", three[1], three[0])
    assert (done.exit_code, done.stdout) == (1, f"{three[0]} deleted\n")
    assert "JOB_NOT_FOUND" in done.stderr
    assert "cancel it first" in done.stderr
    assert service.store.counts() == {"queued": 2}


def test_a_job_whose_record_cannot_be_read_is_deleted(service: Service, smartfrz: Cli, three: list[str]) -> None:
    service.store._records[three[2]] = "{"
    assert "delete it" in smartfrz("cancel", three[2]).stderr
    done = smartfrz("delete", three[2])
    assert (done.exit_code, done.stdout) == (0, f"{three[2]} deleted\n")


@pytest.mark.parametrize("flags", [("-o", "json"), ("-q",)])
def test_what_is_followed_does_not_spoil_what_a_program_reads(
    service: Service, smartfrz: Cli, in_background: Start, flags: tuple[str, ...]
) -> None:
    done: list[Result] = []
    spec = json.dumps(service.spec)
    thread = in_background(lambda: done.append(smartfrz("submit", "-", "--follow", *flags, stdin=spec)))
    job_id = service.submitted()
    service.start(job_id)
    service.finish(job_id)
    thread.join(timeout=20)
    told = done[0].stdout.strip()
    assert (json.loads(told)["id"] if "json" in flags else told) == job_id
    assert f"{job_id} succeeded" in done[0].stderr
    assert done[0].exit_code == 0
