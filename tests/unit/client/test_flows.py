"""What a call does when the service is slow, away or says no: the generators, driven by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client import requests
from client.errors import Conflict, Invalid, NotFound, Unavailable, Unreachable, WaitTimeout, from_response
from client.flows import Flow, Reply, Send, Sleep, call_json, delete, wait_for_end
from client.patience import Patience
from client.requests import RetryPolicy

POLICY = RetryPolicy(attempts=3, backoff_seconds=0.5, max_pause_seconds=5.0)


def _reply(status: int, document: Any = None, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(document).encode() if document is not None else b"")


def _drive(flow: Flow[Any], replies: list[Reply | None]) -> tuple[Any, list[Send], list[float]]:
    """Run a flow against scripted answers; its result, what it sent and how long it slept."""
    sent: list[Send] = []
    slept: list[float] = []
    answer: Reply | None = None
    left = list(replies)
    try:
        while True:
            step = flow.send(answer)
            answer = None
            if isinstance(step, Sleep):
                slept.append(step.seconds)
            else:
                sent.append(step)
                answer = left.pop(0)
    except StopIteration as end:
        return end.value, sent, slept


def test_503_is_repeated_as_retry_after_says_within_bounds() -> None:
    flow = call_json(requests.cancel("job_1"), POLICY)
    replies = [
        _reply(503, {}, **{"retry-after": "2"}),
        _reply(503, {}, **{"retry-after": "900"}),
        _reply(200, {"id": 1}),
    ]
    result, sent, slept = _drive(flow, replies)
    assert result == {"id": 1}
    assert slept == [2.0, 5.0]
    assert len(sent) == 3


def test_a_creation_is_repeated_with_the_same_key() -> None:
    flow = call_json(requests.submit({"name": "a"}, None, False), POLICY)
    _, sent, slept = _drive(flow, [None, _reply(201, {"id": "job_1"})])
    keys = {step.request.headers["Idempotency-Key"] for step in sent}
    assert len(sent) == 2
    assert len(keys) == 1
    assert slept == [0.5]


def test_two_creations_have_two_keys() -> None:
    one, two = (requests.submit({}, None, False).headers["Idempotency-Key"] for _ in range(2))
    assert one != two


def test_it_gives_up_with_a_typed_error() -> None:
    with pytest.raises(Unavailable):
        _drive(call_json(requests.get("job_1"), POLICY), [_reply(503, {})] * 3)
    with pytest.raises(Unreachable):
        _drive(call_json(requests.get("job_1"), POLICY), [None] * 3)


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    gone = _reply(404, {"code": "JOB_NOT_FOUND"})
    for lost in (None, _reply(503, {})):
        _, sent, _ = _drive(delete("job_1", POLICY), [lost, gone])
        assert [step.request.method for step in sent] == ["DELETE", "DELETE"]
    _drive(delete("job_1", POLICY), [_reply(204)])
    with pytest.raises(NotFound):
        _drive(delete("job_1", POLICY), [gone])


def test_what_cannot_be_helped_by_repeating_is_not_repeated() -> None:
    with pytest.raises(Conflict):
        _drive(call_json(requests.cancel("job_1"), POLICY), [_reply(409, {"code": "ILLEGAL_TRANSITION"})])
    with pytest.raises(Unavailable):
        _drive(call_json(requests.cancel("job_1"), POLICY), [_reply(503, {}, **{"x-should-retry": "false"})])


def test_a_problem_document_is_readable() -> None:
    document = {
        "code": "SPEC_INVALID",
        "detail": "one fault",
        "errors": [{"pointer": "/model/name", "detail": "no model 'x'", "code": "UNKNOWN"}],
    }
    with pytest.raises(Invalid) as caught:
        _drive(call_json(requests.submit({}, None, False), POLICY), [_reply(422, document)])
    assert str(caught.value) == "SPEC_INVALID (422): one fault\n  /model/name: no model 'x'"
    assert caught.value.problems[0].pointer == "/model/name"


def test_what_the_faults_say_is_not_said_twice() -> None:
    fault = {"pointer": "/a", "detail": "must be 1"}
    body = json.dumps({"code": "X", "title": "No", "detail": "/a: must be 1", "errors": [fault]}).encode()
    assert str(from_response(422, {}, body)) == "X (422): No\n  /a: must be 1"


def test_an_answer_that_is_no_problem_document_keeps_its_words() -> None:
    with pytest.raises(Invalid, match="Bad gateway page"):
        _drive(call_json(requests.get("job_1"), POLICY), [Reply(400, {}, b"<h1>Bad gateway page</h1>")])


def test_wait_polls_with_the_etag_and_ends_with_the_job() -> None:
    seen: list[str] = []
    flow = wait_for_end("job_1", POLICY, timeout=None, on_update=lambda job: seen.append(job["status"]))
    replies = [
        _reply(200, {"status": "running"}, etag='W/"1"', **{"retry-after": "60"}),
        _reply(304, None, etag='W/"1"'),
        _reply(200, {"status": "succeeded"}, etag='W/"2"'),
    ]
    job, sent, slept = _drive(flow, replies)
    assert job["status"] == "succeeded"
    assert seen == ["running", "succeeded"]
    assert "If-None-Match" not in sent[0].request.headers
    assert sent[1].request.headers["If-None-Match"] == 'W/"1"'
    assert slept[0] == 2.0


def test_wait_gives_up_at_the_deadline() -> None:
    times = iter([0.0, 0.0, 6.0])
    flow = wait_for_end("job_1", POLICY, timeout=5.0, clock=lambda: next(times))
    with pytest.raises(WaitTimeout, match="it goes on"):
        _drive(flow, [_reply(200, {"status": "running"})])


class _Clock:
    """Seconds that pass by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("away", [None, _reply(503, {}), _reply(502)])
def test_wait_bears_an_outage_longer_than_the_tries_and_counts_it_from_the_last_good_answer(away: Reply | None) -> None:
    clock = _Clock()
    waiting = lambda _: setattr(clock, "now", clock.now + 40.0)  # noqa: E731
    flow = wait_for_end("job_1", POLICY, timeout=None, on_update=waiting, patience=Patience(60.0, clock))
    running = _reply(200, {"status": "running"})
    replies = [running, *[away] * 7, running, *[away] * 7, _reply(200, {"status": "succeeded"})]
    job, sent, _ = _drive(flow, replies)
    assert job["status"] == "succeeded"
    assert len(sent) == 17


def test_wait_ends_when_the_patience_is_over_and_at_the_deadline_before_that() -> None:
    clock = _Clock()
    over = Patience(60.0, clock)
    clock.now = 60.0
    with pytest.raises(Unreachable):
        _drive(wait_for_end("job_1", POLICY, timeout=None, patience=over), [None] * 3)
    times = iter([0.0, 0.0, 6.0])
    with pytest.raises(WaitTimeout):
        _drive(wait_for_end("job_1", POLICY, timeout=5.0, clock=lambda: next(times), patience=Patience()), [None] * 3)


def test_a_refusal_is_an_answer_that_no_patience_waits_out() -> None:
    with pytest.raises(Invalid):
        _drive(wait_for_end("job_1", POLICY, timeout=None, patience=Patience()), [_reply(400, {})])


def test_parts_of_a_path_are_quoted() -> None:
    assert requests.below("a/b", "layers", "x/../y", "trajectory").path == "/v1/jobs/a%2Fb/layers/x%2F..%2Fy/trajectory"
    assert requests.artifact("job_1", "sub/a b.json").path == "/v1/jobs/job_1/artifacts/sub/a%20b.json"
