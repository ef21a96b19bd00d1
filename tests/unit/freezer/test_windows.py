"""The codec, and what a checkpoint keeps of a store. The ring itself is held by the contract suite."""

from __future__ import annotations

import struct

import pytest

from freezer.windows import MemoryWindows, Snapshot, decode, dump, encode, restore


def test_codec_round_trip_and_layout() -> None:
    snapshot = Snapshot(7, struct.pack("<2f", 1.5, -2.0))
    data = encode(snapshot)
    assert decode(data) == snapshot
    assert len(snapshot) == 2
    assert data == struct.pack("<qI2f", 7, 2, 1.5, -2.0)


@pytest.mark.parametrize("cut", [0, 5, 12, 15])
def test_cut_data_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"cut|carries"):
        decode(encode(Snapshot(7, struct.pack("<2f", 1.5, -2.0)))[:cut])


def test_a_store_comes_back_exactly_with_units_that_ended_earlier() -> None:
    store, other = MemoryWindows(3), MemoryWindows(3)
    for step in range(5):
        store.append(step, {"a": struct.pack("<f", step)} | ({"b": struct.pack("<f", -step)} if step < 3 else {}))
    other.append(9, {"stale": b"\0\0\0\0"})
    restore(other, dump(store))
    assert dump(other) == dump(store)
    assert [snapshot.step for snapshot in other.read("a")] == [2, 3, 4]
    assert [snapshot.step for snapshot in other.read("b")] == [0, 1, 2]
    assert other.units() == ["a", "b"]


def test_time_does_not_go_backward() -> None:
    store = MemoryWindows(3)
    store.append(5, {"a": b"\0\0\0\0"})
    with pytest.raises(ValueError, match="step 4 after one at step 5"):
        store.append(4, {"a": b"\0\0\0\0"})
