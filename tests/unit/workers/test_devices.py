from __future__ import annotations

from pathlib import Path

import pytest

from workers.devices import DevicePool, Gpu, list_gpus, parse_gpus

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-0c757cd7-e942-5726-a0b8-0e8fb7067135)
"""
GPUS = parse_gpus(LISTING)


def test_the_listing_names_each_gpu_once() -> None:
    assert [(gpu.name, gpu.uuid[:8]) for gpu in GPUS] == [("cuda:0", "GPU-5d5b"), ("cuda:1", "GPU-0c75")]
    assert parse_gpus("No devices found.") == []


def test_the_listing_is_narrowed_as_the_environment_says() -> None:
    assert [gpu.index for gpu in parse_gpus(LISTING, "1")] == [1]
    assert [gpu.index for gpu in parse_gpus(LISTING, "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77")] == [0]
    assert [gpu.index for gpu in parse_gpus(LISTING, "1,0")] == [1, 0]
    assert parse_gpus(LISTING, "") == []


def test_a_host_without_a_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{LISTING}'\n")
    tool.chmod(0o755)
    assert list_gpus({}) == GPUS


def test_two_workers_never_share_a_gpu(tmp_path: Path) -> None:
    mine, theirs = DevicePool(tmp_path, GPUS, 2), DevicePool(tmp_path, GPUS, 2)
    first = mine.acquire("cuda", 1)
    second = theirs.acquire("cuda", 1)
    assert first is not None
    assert second is not None
    assert set(first.uuids).isdisjoint(second.uuids)
    assert theirs.acquire("cuda", 1) is None
    first.release()
    again = theirs.acquire("cuda", 1)
    assert again is not None
    assert again.environment == {"CUDA_VISIBLE_DEVICES": GPUS[0].uuid}
    again.release()
    second.release()


def test_all_or_none(tmp_path: Path) -> None:
    mine, theirs = DevicePool(tmp_path, GPUS, 2), DevicePool(tmp_path, GPUS, 2)
    first = mine.acquire("cuda", 1)
    assert theirs.acquire("cuda", 2) is None
    second = theirs.acquire("cuda", 1)  # the failed try held nothing back
    assert first is not None
    assert second is not None
    first.release()
    second.release()


def test_cpu_ranks_are_counted_and_see_no_gpu(tmp_path: Path) -> None:
    pool = DevicePool(tmp_path, [], 2)
    assert pool.names == ["cpu"]
    assert pool.acquire("cpu", 3) is None
    lease = pool.acquire("cpu", 2)
    assert lease is not None
    assert lease.environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert DevicePool(tmp_path, [Gpu(3, "GPU-a")], 2).names == ["cuda:3"]


def test_a_failure_in_between_gives_back_what_was_taken(tmp_path: Path) -> None:
    first, second = Gpu(0, "GPU-0"), Gpu(1, "GPU-1")
    (tmp_path / "devices" / "GPU-1.lock").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        DevicePool(tmp_path, [first, second], 1).acquire("cuda", 2)
    lease = DevicePool(tmp_path, [first], 1).acquire("cuda", 1)
    assert lease is not None
    lease.release()
