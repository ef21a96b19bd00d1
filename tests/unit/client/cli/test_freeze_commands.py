"""Freeze, thaw, pin and unpin from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import Result

from client.cli.lines import cache_words, event_line, frozen_words
from client.sse import Event

if TYPE_CHECKING:
    from conftest import Service

Cli = Callable[..., Result]


def test_commands_are_sent_and_listed(service: Service, smartfrz: Cli) -> None:
    with service.client() as client:
        job_id = str(client.submit(service.spec)["id"])
    for args in (
        ("freeze", job_id, "conv1", "block.0"),
        ("thaw", job_id),
        ("pin", job_id, "a"),
        ("unpin", job_id, "a"),
    ):
        done = smartfrz(*args)
        assert done.exit_code == 0, done.output
        assert "pending" in done.stdout
    fence = service.start(job_id)
    service.store.settle_command(job_id, 1 if fence is None else fence, 1, step=3)
    listed = json.loads(smartfrz("commands", job_id, "-o", "json").stdout)["data"]
    assert [(c["action"], c["units"], c["state"]) for c in listed] == [
        ("freeze", ["conv1", "block.0"], "applied"),
        ("thaw", None, "pending"),
        ("pin", ["a"], "pending"),
        ("unpin", ["a"], "pending"),
    ]
    table = smartfrz("commands", job_id).stdout
    assert "conv1, block.0" in table
    assert "everything" in table
    assert smartfrz("commands", job_id, "-q", "-n", "1").stdout == "cmd_000001\n"


def test_a_job_that_has_ended_says_so(service: Service, smartfrz: Cli) -> None:
    with service.client() as client:
        job_id = str(client.submit(service.spec)["id"])
    service.start(job_id)
    service.finish(job_id, "succeeded")
    done = smartfrz("thaw", job_id)
    assert done.exit_code == 1
    assert "it is succeeded" in done.stderr


def test_pin_needs_units(smartfrz: Cli) -> None:
    assert smartfrz("pin", "job_0").exit_code == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"unit": "conv1", "step": 4, "cause": "policy"}, "conv1 at step 4"),
        ({"unit": "conv1", "step": 4, "cause": "lr_drop"}, "conv1 at step 4, by lr drop"),
    ],
)
def test_a_freeze_event_names_its_cause(data: dict[str, object], words: str) -> None:
    assert frozen_words(data) == words


def test_commands_and_the_cache_in_one_line() -> None:
    data = {"action": "thaw", "units": None, "step": 9, "error": "nothing is frozen"}
    line = event_line(Event(id="1-0", type="command.refused", at="", data=data))
    assert line == "command.refused    thaw everything at step 9: nothing is frozen"
    assert cache_words({"state": "refused", "reason": "too small"}) == "forward cache: refused: too small"
    assert cache_words({"state": "on", "reason": None}) == "forward cache: on"
