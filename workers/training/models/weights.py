"""Initial weights from a file under the operator's data directory: safetensors, or a tensors-only torch file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from workers.jobs.paths import PathOutside, confine
from workers.settings import Settings
from workers.training.errors import ConfigInvalid


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of a torch file that holds nothing but tensors.

    Raises:
        ConfigInvalid: missing, damaged, or it holds code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigInvalid(f"no weights file {path.name}") from error
    except pickle.UnpicklingError as error:
        raise ConfigInvalid(
            f"{path.name} is damaged, or holds more than tensors: such files run code when they are read. Save the "
            "model's state_dict() with safetensors"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise ConfigInvalid(f"cannot read weights from {path.name}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigInvalid(f"{path.name} must hold a flat dict of named tensors, as state_dict() gives it")
    return state


def load_initial(model: nn.Module, path: str, settings: Settings) -> None:
    """Load every tensor of ``model`` from a file; only a ``head`` of another shape keeps its fresh weights.

    Raises:
        ConfigInvalid: the path is not allowed, or tensors are missing, surplus or of another shape.
    """
    if settings.data_dir is None:
        raise ConfigInvalid("model.path needs a data directory: the operator sets SMARTFRZ_DATA_DIR")
    try:
        state = read_tensors(confine(path, settings.data_dir))
    except PathOutside as error:
        raise ConfigInvalid(f"model.path: {error}") from error
    own = model.state_dict()
    for name in [n for n in state if n.startswith("head.") and n in own and state[n].shape != own[n].shape]:
        state[name] = own[name]
    load_exactly(model, state, path)


def load_exactly(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy ``state`` into ``model``: same names, same shapes, nothing left random, nothing left over.

    Raises:
        ConfigInvalid: with the names that do not fit.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    shapes = sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("not in the model", surplus), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ConfigInvalid(f"the weights in {source} do not fit the model: {'; '.join(faults)}")
    model.load_state_dict(state, strict=True)
