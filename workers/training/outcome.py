"""From an exception to a reason and a sentence that a person can act on. Pure."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from freezer.errors import ConfigError, PredictorError
from workers.jobs.record import Reason
from workers.training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an attempt failed, or could not be left as it should."""

    reason: Reason
    message: str


class PeerLost(Exception):
    """Another rank is gone. Its own end, or the runner, says why; this rank has nothing to add."""


_PEER_GONE = ("connection closed by peer", "connection reset by peer", "broken pipe", "connection refused")
_TIMED_OUT = ("timed out", "timeout", "wait timeout")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STORAGE = (*_FULL, errno.EIO, errno.ESTALE, errno.EROFS)
"""Numbers by which a disk or a mount says that it takes nothing, or gives nothing."""


def is_peer_lost(error: BaseException, *, world: int) -> bool:
    """Whether a collective failed because another rank is gone (gloo says so in words only).

    Args:
        world: number of ranks: one rank has no peer, and the same words come from the user's own network.
    """
    if world == 1:
        return False
    if isinstance(error, PeerLost):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _PEER_GONE)


def is_timeout(error: BaseException) -> bool:
    """Whether a collective ran into the process group's timeout."""
    if isinstance(error, dist.DistError):
        return any(words in str(error).lower() for words in _TIMED_OUT)
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "gloo" in text and any(words in text for words in _TIMED_OUT)


def judge(error: BaseException, *, code_dir: Path | None = None) -> Verdict:
    """Classify what ended the training.

    Args:
        code_dir: where user code lives; the frame named in the message is the innermost one from there.
    """
    if isinstance(error, TrainingError):
        return Verdict(error.reason, str(error))
    if isinstance(error, ConfigError):
        return Verdict("config_invalid", f"/freeze{error.pointer}: {error}")
    if isinstance(error, PredictorError):
        return Verdict("config_invalid", f"the predictor's weights cannot be used: {error}")
    if isinstance(error, torch.OutOfMemoryError):
        text = "the GPU ran out of memory: lower training.batch_size (and raise gradient_accumulation), or use bf16"
        return Verdict("gpu_oom", f"{text} ({_first_line(error)})")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error):
        return Verdict("host_oom", f"the host ran out of memory: lower training.batch_size ({_first_line(error)})")
    if isinstance(error, OSError) and error.errno in _STORAGE:
        text = f"{storage_words(error)}; the job goes on from its last checkpoint while it has attempts left"
        return Verdict("storage_full", text)
    if is_timeout(error):
        return Verdict(
            "collective_timeout",
            f"a rank waited too long for the others: one hangs, or is far slower ({_first_line(error)})",
        )
    frame = _frame(error.__traceback__, code_dir)
    return Verdict("code_error", f"{type(error).__name__}: {error}{frame}")


def storage_words(error: OSError) -> str:
    """What the disk refused, and what to do about it."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"no space left{where}: free space under SMARTFRZ_HOME"
    return f"{error.strerror or error}{where}: see to the disk or mount of SMARTFRZ_HOME"


def unsaved(error: OSError, step: int) -> Verdict:
    """A run was stopped after ``step`` steps, and its checkpoint could not be written."""
    text = f"its checkpoint of step {step} could not be written, so it will go on from the one before"
    return Verdict("storage_full", f"{text}: {storage_words(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _frame(trace: TracebackType | None, code_dir: Path | None) -> str:
    """`` (file.py:12 in name)`` of the innermost frame of user code, else of the innermost frame at all."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return ""
    root = code_dir.resolve() if code_dir is not None else None
    users = [f for f in frames if root is not None and Path(f.filename).resolve().is_relative_to(root)]
    frame = (users or frames)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
