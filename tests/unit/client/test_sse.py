"""The SSE parser and when a follower reconnects."""

from __future__ import annotations

import pytest

from client.errors import NotFound, Unavailable, Unreachable
from client.flows import Reply
from client.patience import Patience
from client.requests import RetryPolicy
from client.sse import Message, SseParser, to_event
from client.stream import Reconnect

STREAM = (
    b": ping\r\n\r\n"
    b'id: 1-0\nevent: unit.frozen\ndata: {"a":\ndata: 1}\n\n'
    b"id: 2-0\rdata: line\xe2\x80\xa8separator\r\r"
    b"event: end\r\ndata: {}\r\n\r\n"
    b"data: cut off"
)
MESSAGES = [
    Message("1-0", "unit.frozen", '{"a":\n1}'),
    Message("2-0", "message", "line\u2028separator"),
    Message("2-0", "end", "{}"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    parser = SseParser()
    chunks = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [message for chunk in chunks for message in parser.feed(chunk)] == MESSAGES


def test_an_event_is_understood_as_the_json_list_has_it() -> None:
    event = to_event(Message("5-0", "x", '{"id":"5-0","type":"x","created_at":"2026-01-01T00:00:00Z","data":{"n":1}}'))
    assert (event.id, event.type, event.at, event.data) == ("5-0", "x", "2026-01-01T00:00:00Z", {"n": 1})


def _reply(status: int, **headers: str) -> Reply:
    return Reply(status, headers, b"{}")


def test_a_follower_goes_on_after_the_last_id() -> None:
    state = Reconnect("job_1", None, RetryPolicy())
    assert "Last-Event-ID" not in state.request().headers
    assert state.opened(_reply(200))
    assert state.accept(Message("7-0", "x", "{}"))
    state.broke(ConnectionError("gone"))
    assert state.request().headers["Last-Event-ID"] == "7-0"


def test_end_and_204_are_the_end() -> None:
    state = Reconnect("job_1", None, RetryPolicy())
    assert not state.accept(Message("7-0-end", "end", "{}"))
    assert not state.going_on()
    other = Reconnect("job_1", "7-0-end", RetryPolicy())
    assert not other.opened(_reply(204))
    assert not other.going_on()


def test_breaks_are_bounded_and_an_event_starts_the_count_anew() -> None:
    state = Reconnect("job_1", None, RetryPolicy(attempts=3))
    for _ in range(2):
        state.broke(ConnectionError())
    state.accept(Message("1-0", "x", "{}"))
    for _ in range(2):
        state.broke(ConnectionError())
    with pytest.raises(Unreachable):
        state.broke(ConnectionError())


def test_with_patience_breaks_are_borne_beyond_the_tries_as_long_as_the_stream_lived() -> None:
    times = [0.0]
    state = Reconnect("job_1", None, RetryPolicy(attempts=2), Patience(60.0, lambda: times[-1]))
    for _ in range(9):
        state.broke(ConnectionError())
    times.append(3000.0)
    state.alive(live=True)  # a ping: nothing happened in the job for most of an hour
    state.broke(ConnectionError())
    times.append(3060.0)
    state.alive(live=False)  # the page of a proxy is no sign of life
    with pytest.raises(Unreachable):
        state.broke(ConnectionError())


def test_a_503_is_waited_out_and_a_404_is_final() -> None:
    state = Reconnect("job_1", None, RetryPolicy(attempts=2))
    assert not state.opened(_reply(503, **{"retry-after": "3"}))
    assert state.pause() == 3.0
    with pytest.raises(Unavailable):
        state.opened(_reply(503))
    with pytest.raises(NotFound):
        Reconnect("job_1", None, RetryPolicy()).opened(_reply(404))
