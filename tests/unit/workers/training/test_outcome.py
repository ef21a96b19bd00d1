from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from freezer.errors import ConfigError, PredictorError
from workers.training.errors import ConfigInvalid, DatasetInvalid
from workers.training.outcome import PeerLost, is_peer_lost, judge, unsaved

GLOO_PEER = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:21934"
GLOO_TIMEOUT = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 2000ms for recv"


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (ConfigInvalid("10 classes, not 20"), "config_invalid", "10 classes"),
        (DatasetInvalid("smartfrz data fetch mnist5k"), "dataset_invalid", "data fetch"),
        (ConfigError("window too long", "/window"), "config_invalid", "/freeze/window: window too long"),
        (PredictorError("no safetensors file"), "config_invalid", "weights cannot be used: no safetensors"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "gpu_oom", "batch_size"),
        (MemoryError(), "host_oom", "batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "host_oom", "memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/ck.pt"), "storage_full", "/x/ck.pt"),
        (RuntimeError(GLOO_TIMEOUT), "collective_timeout", "waited too long"),
        (dist.DistBackendError("Watchdog caught collective operation timeout"), "collective_timeout", "waited"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full", "free space under SMARTFRZ_HOME; the job"),
        (OSError(errno.ESTALE, "Stale file handle", "/x"), "storage_full", "Stale file handle at /x: see to the disk"),
        (OSError(errno.EIO, "Input/output error"), "storage_full", "goes on from its last checkpoint while it has"),
        (OSError(errno.EACCES, "Permission denied"), "code_error", "PermissionError"),
        (RuntimeError("connection timed out in my own code"), "code_error", "my own code"),
        (KeyError("x"), "code_error", "KeyError: 'x'"),
    ],
)
def test_reason_and_message(error: Exception, reason: str, words: str) -> None:
    verdict = judge(error)
    assert verdict.reason == reason
    assert words in verdict.message


def test_the_frame_named_is_the_users_own(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text("import json\n\ndef make():\n    json.loads('{')\n")
    scope: dict[str, object] = {}
    exec(compile(source.read_text(), str(source), "exec"), scope)  # noqa: S102
    with pytest.raises(ValueError, match="Expecting") as caught:
        scope["make"]()  # type: ignore[operator]
    assert "(net.py:4 in make)" in judge(caught.value, code_dir=tmp_path).message
    assert "(decoder.py:" in judge(caught.value).message


def test_a_lost_peer_is_told_apart_from_an_error_of_ones_own() -> None:
    assert is_peer_lost(RuntimeError(GLOO_PEER), world=2)
    assert is_peer_lost(PeerLost(), world=2)
    assert not is_peer_lost(RuntimeError(GLOO_TIMEOUT), world=2)
    assert not is_peer_lost(ConnectionResetError("connection reset by peer"), world=2)  # the user's own socket


def test_a_single_rank_has_no_peer_to_lose() -> None:
    assert not is_peer_lost(RuntimeError("my bucket: Connection refused"), world=1)


def test_a_checkpoint_that_a_stopped_run_could_not_leave_says_what_to_do() -> None:
    told = unsaved(OSError(errno.ENOSPC, "No space left on device", "/x/model"), 12)
    words = "its checkpoint of step 12 could not be written, so it will go on from the one before: "
    assert (told.reason, told.message) == (
        "storage_full",
        f"{words}no space left at /x/model: free space under SMARTFRZ_HOME",
    )
