"""What every window store does: the ring in memory, on Redis, and the first mirrored to the second."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from freezer.windows import MemoryWindows, Snapshot, WindowStore, encode
from tests.conftest import StoreUrl
from workers import window_store
from workers.jobs.errors import StoreUnavailable
from workers.window_store import AsyncWindowReader, Mirror, RedisWindows, WriteBehindWindows, pause_after


def values(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.fixture(params=["memory", "redis", "write-behind"])
def windows(request: pytest.FixtureRequest) -> Iterator[WindowStore]:
    if request.param == "memory":
        yield MemoryWindows(3)
        return
    place: StoreUrl = request.getfixturevalue("store_url")
    remote = RedisWindows(*place, "job_1", 3, 60.0)
    if request.param == "redis":
        yield remote
    else:
        behind = WriteBehindWindows(MemoryWindows(3), lambda: RedisWindows(*place, "job_1", 3, 60.0))
        yield behind
        assert behind.flush(10)
        assert behind.dropped == 0
        assert {u: remote.read(u) for u in remote.units()} == {u: behind.read(u) for u in behind.units()}
        behind.close()
    remote.close()


class TestWindows:
    def test_unknown_unit_is_empty(self, windows: WindowStore) -> None:
        assert windows.read("layer") == []
        assert windows.units() == []
        windows.drop("layer")
        windows.clear()

    def test_keeps_the_newest_oldest_first(self, windows: WindowStore) -> None:
        for step in range(1, 6):
            windows.append(step, {"a": values(step, -step)})
        assert windows.read("a") == [Snapshot(step, values(step, -step)) for step in (3, 4, 5)]

    def test_units_differ_in_size_and_time(self, windows: WindowStore) -> None:
        windows.append(1, {"b": values(1.0), "a.weight": values(1.0, 2.0)})
        windows.append(2, {"b": values(2.0)})
        assert windows.units() == ["a.weight", "b"]
        assert [s.step for s in windows.read("b")] == [1, 2]
        assert [len(s) for s in windows.read("a.weight")] == [2]

    def test_a_repeated_step_replaces(self, windows: WindowStore) -> None:
        windows.append(1, {"a": values(1.0)})
        windows.append(2, {"a": values(2.0)})
        windows.append(2, {"a": values(3.0), "b": values(4.0)})
        assert windows.read("a") == [Snapshot(1, values(1.0)), Snapshot(2, values(3.0))]
        assert windows.read("b") == [Snapshot(2, values(4.0))]

    def test_a_step_backward_is_refused(self, windows: WindowStore) -> None:
        windows.append(2, {"a": values(1.0)})
        with pytest.raises(ValueError, match="step 1"):
            windows.append(1, {"a": values(1.0)})
        assert [s.step for s in windows.read("a")] == [2]

    def test_drop_and_clear(self, windows: WindowStore) -> None:
        windows.append(1, {"a": values(1.0), "b": values(1.0), "c": values(1.0)})
        windows.drop("a")
        assert windows.units() == ["b", "c"]
        assert windows.read("a") == []
        windows.clear()
        assert windows.units() == []
        windows.append(1, {"b": values(2.0)})
        assert windows.read("b") == [Snapshot(1, values(2.0))]

    def test_nothing_to_append(self, windows: WindowStore) -> None:
        windows.append(1, {})
        assert windows.units() == []


def test_capacity_must_be_positive(store_url: StoreUrl) -> None:
    for make in (MemoryWindows, lambda capacity: RedisWindows(*store_url, "j", capacity, 1.0)):
        with pytest.raises(ValueError, match="capacity"):
            make(0)


def test_a_write_that_was_sent_twice_is_read_once(store_url: StoreUrl) -> None:
    windows = RedisWindows(*store_url, "job_1", 3, 60.0)
    again = windows._ops.append
    windows.append(1, {"a": values(1.0)})
    windows._driver.run(again({"a": encode(Snapshot(1, values(1.0)))}, (), 3, 60.0))
    windows.append(2, {"a": values(2.0)})
    assert windows.read("a") == [Snapshot(1, values(1.0)), Snapshot(2, values(2.0))]
    windows.close()


def test_a_second_writer_goes_on_where_the_first_ended(store_url: StoreUrl) -> None:
    for step in (1, 2):
        writer = RedisWindows(*store_url, "job_1", 3, 60.0)
        writer.append(step, {"a": values(step)})
        writer.append(step, {"a": values(step)})
        writer.close()
    reader = RedisWindows(*store_url, "job_1", 3, 60.0)
    assert [s.step for s in reader.read("a")] == [1, 2]
    reader.close()


def test_windows_expire(store_url: StoreUrl) -> None:
    windows = RedisWindows(*store_url, "job_1", 3, 0.05)
    windows.append(1, {"a": values(1.0)})
    deadline = time.monotonic() + 5
    while windows.units() and time.monotonic() < deadline:
        pass
    assert windows.units() == []
    assert windows.read("a") == []
    windows.close()


def test_what_is_renewed_lives_on(store_url: StoreUrl) -> None:
    windows = RedisWindows(*store_url, "job_1", 3, 60.0)
    windows.renew()  # nothing is there yet
    windows.append(1, {"a": values(1.0), "b": values(1.0)})
    redis = windows._driver.client
    keys = list(redis.scan_iter(f"{store_url.prefix}*"))
    assert len(keys) == 3
    for key in keys:
        redis.pexpire(key, 5000)
    windows.renew()
    assert all(50_000 < int(redis.pttl(key)) <= 60_000 for key in keys)
    windows.close()


async def test_the_api_reads_what_rank_0_wrote(store_url: StoreUrl) -> None:
    writer, reader = RedisWindows(*store_url, "job_1", 3, 60.0), AsyncWindowReader(*store_url)
    writer.append(7, {"a": values(1.5)})
    assert await reader.units("job_1") == ["a"]
    assert await reader.read("job_1", "a") == [Snapshot(7, values(1.5))]
    assert await reader.units("job_2") == []
    writer.close()
    await reader.close()


class Gate(MemoryWindows):
    """A mirror that answers only while its gate is open, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__(100)
        self.open, self.entered, self.broken = threading.Event(), threading.Event(), False
        self.renewed, self.tries = threading.Event(), 0

    def connect(self) -> Gate:
        self.tries += 1
        return self

    def renew(self) -> None:
        self.renewed.set()

    def close(self) -> None:
        """There is no connection."""

    def append(self, step: int, values: Mapping[str, bytes]) -> None:
        self.entered.set()
        assert self.open.wait(10)
        if self.broken:
            raise StoreUnavailable("gone")
        super().append(step, values)


def behind(remote: Callable[[], Mirror], capacity: int = 100, bound: int = 4, **more: float) -> WriteBehindWindows:
    return WriteBehindWindows(MemoryWindows(capacity), remote, bound=bound, **more)


class TestWriteBehind:
    def test_a_slow_mirror_loses_the_oldest_and_training_waits_for_nothing(self) -> None:
        gate = Gate()
        windows = behind(lambda: gate)
        windows.append(1, {"a": values(1.0)})
        assert gate.entered.wait(10)
        for step in range(2, 12):
            windows.append(step, {"a": values(step)})
        assert [s.step for s in windows.read("a")] == list(range(1, 12))
        assert windows.dropped == 6
        assert not windows.flush(0.01)
        gate.open.set()
        assert windows.flush(10)
        assert [s.step for s in gate.read("a")] == [1, 8, 9, 10, 11]
        windows.close()

    def test_a_mirror_that_comes_back_gets_the_whole_ring(self) -> None:
        gate = Gate()
        gate.open.set()
        windows = behind(lambda: gate)
        windows.append(1, {"a": values(1.0)})
        assert windows.flush(10)
        gate.broken = True
        windows.append(2, {"a": values(2.0)})
        assert windows.flush(10)
        assert windows.dropped == 1
        gate.broken = False
        windows.append(3, {"a": values(3.0), "b": values(3.0)})
        windows.close()
        assert gate.read("a") == windows.read("a")
        assert gate.units() == ["a", "b"]

    def test_a_ring_restored_from_a_checkpoint_replaces_what_was_mirrored(self) -> None:
        gate = Gate()
        gate.open.set()
        gate.append(9, {"gone": values(9.0)})
        local = MemoryWindows(5)
        local.append(4, {"a": values(4.0)})
        windows = WriteBehindWindows(local, lambda: gate)
        windows.append(5, {"a": values(5.0)})
        windows.close()
        assert gate.units() == ["a"]
        assert [s.step for s in gate.read("a")] == [4, 5]

    def test_a_server_that_is_not_there_is_only_counted(self) -> None:
        windows = behind(lambda: RedisWindows("unix:///nowhere/s", "p:", "j", 3, 1.0))
        windows.append(1, {"a": values(1.0)})
        assert windows.flush(30)
        assert windows.dropped == 1
        assert [s.step for s in windows.read("a")] == [1]
        windows.close()

    def test_close_is_bounded_and_counts_what_is_left(self) -> None:
        gate = Gate()
        windows = behind(lambda: gate)
        windows.append(1, {"a": values(1.0)})
        assert gate.entered.wait(10)
        windows.append(2, {"a": values(1.0)})
        windows.close(0.05)
        assert windows.dropped == 1
        gate.open.set()

    def test_a_mirror_that_fails_is_left_alone_for_a_while_and_told_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(window_store, "FIRST_PAUSE_SECONDS", 60.0)
        gate = Gate()
        gate.open.set()
        gate.broken = True
        windows = behind(gate.connect)
        windows.append(1, {"a": values(1.0)})
        assert windows.flush(10)
        for step in range(2, 5):
            windows.append(step, {"a": values(step)})
        gate.entered.clear()
        assert not gate.entered.wait(0.1), "it was tried again at once"
        assert gate.tries == 1
        assert windows.flush(10), "who waits for it has it tried now"
        assert gate.tries == 2
        gate.broken = False
        windows.append(5, {"a": values(5.0)})
        windows.close()
        assert gate.read("a") == windows.read("a")
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
            "trajectories are not shown until their store takes them again: gone"
        ]

    def test_pauses_grow_up_to_a_bound(self) -> None:
        assert [pause_after(n) for n in (1, 2, 3, 4, 5, 6, 9999)] == [2, 4, 8, 16, 32, 60, 60]

    def test_a_mirror_is_tried_again_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(window_store, "FIRST_PAUSE_SECONDS", 0.01)
        gate = Gate()
        gate.open.set()
        gate.broken = True
        windows = behind(gate.connect)
        for step in range(1, 4):
            gate.entered.clear()
            windows.append(step, {"a": values(step)})
            assert gate.entered.wait(10)
        windows.close()
        assert gate.tries >= 3

    def test_a_mirror_is_renewed_whether_it_is_written_to_or_not(self) -> None:
        gate = Gate()
        gate.open.set()
        windows = behind(gate.connect, renew_seconds=0.01)
        assert not gate.renewed.wait(0.05), "there is no mirror yet"
        windows.append(1, {"a": values(1.0)})
        for _ in range(3):
            assert gate.renewed.wait(10)
            gate.renewed.clear()
        windows.close()
