"""Checkpoints: written beside, fsynced, hashed, renamed into place; read only whole.

::

    checkpoints/step-00000120/
        manifest.json        {"step", "world", "files": {name: {"sha256", "bytes"}}}; written last
        model.safetensors    parameters and buffers, by their names without wrappers
        best.safetensors     the same of the best evaluation so far, with early stopping
        training.pt          optimizer, freezer, position: tensors and plain values, read with ``weights_only=True``
        rank<N>.pt           random state of one rank

A directory without a manifest that matches is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file

from workers.training.storage import save_object, save_tensors

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
BEST = "best.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything a run needs to go on after ``step`` completed steps as if it had never stopped."""

    step: int
    model: dict[str, torch.Tensor]
    training: dict[str, Any]
    """``optimizer``, ``freezer``, ``loop``: nested dicts and lists of tensors, numbers, strings, bytes."""
    rng: list[dict[str, Any]]
    """Random state by rank."""
    best: Path | None = None
    """File with the weights of the best evaluation, to be copied; once read, that of the checkpoint."""

    @property
    def world(self) -> int:
        return len(self.rng)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Random state of this rank: torch on CPU and device, Python, and numpy, which the user's data may draw from."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    state["numpy"] = [name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)]
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Inverse of :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "numpy" in state:  # not in checkpoints of earlier versions
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state on the CPU, to be written at once: tensors that are there already are not copied.

    Tied ones are written twice, the second as a copy, since a file of safetensors shares no memory.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().to("cpu").contiguous()
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return found


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2, earlier: Sequence[Path] = ()) -> Path:
    """Write a checkpoint under ``folder`` and delete all but the newest ``keep``.

    Args:
        earlier: folders of superseded attempts, oldest first; theirs count too, and go first.

    Raises:
        OSError: it could not be written; nothing of it is left, and earlier checkpoints are untouched.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    beside = folder / f".{target.name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        save_tensors(checkpoint.model, beside / "model.safetensors")
        save_object(checkpoint.training, beside / "training.pt")
        if checkpoint.best is not None:
            shutil.copyfile(checkpoint.best, beside / BEST)
        for rank, state in enumerate(checkpoint.rng):
            save_object(state, beside / f"rank{rank}.pt")
        files = {path.name: _describe(path) for path in sorted(beside.iterdir())}
        manifest = {"step": checkpoint.step, "world": checkpoint.world, "files": files}
        (beside / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in (*beside.iterdir(), beside):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(beside, target)
        _sync(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _prune((*earlier, folder), keep)
    return target


def _prune(folders: Sequence[Path], keep: int) -> None:
    """Leave the newest ``keep`` checkpoints, those of a later folder before those of an earlier one."""
    for folder in reversed(folders):
        if keep == 0:
            shutil.rmtree(folder, ignore_errors=True)  # with what a killed attempt left half-written
        found = sorted(folder.glob("step-*"), reverse=True)
        for path in found[keep:]:
            shutil.rmtree(path, ignore_errors=True)
        keep = max(0, keep - len(found))


def load(path: Path) -> Checkpoint:
    """Read one checkpoint after checking every file against the manifest.

    Raises:
        ValueError: something is missing or damaged; says what.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            if _describe(path / name) != expected:
                raise ValueError(f"{name} does not match the manifest")
        return Checkpoint(
            step=int(manifest["step"]),
            model=load_file(path / "model.safetensors"),
            training=torch.load(path / "training.pt", weights_only=True, map_location="cpu"),
            rng=[torch.load(path / f"rank{n}.pt", weights_only=True) for n in range(int(manifest["world"]))],
            best=path / BEST if BEST in manifest["files"] else None,
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def newest(folders: Iterable[Path]) -> Path | None:
    """The valid checkpoint with the most steps in any of the folders; damaged ones are skipped with a log line."""
    found = [path for folder in folders for path in folder.glob("step-*")]
    for path in sorted(found, key=lambda p: (p.name, p.parent), reverse=True):
        try:
            load(path)
        except ValueError as error:
            _log.warning("checkpoint %s is damaged and is skipped: %s", path, error)
        else:
            return path
    return None


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
