"""Predictor weights on disk: one safetensors file with everything needed to use them, and its description beside.

Loading draws no random numbers: the networks are made on the meta device and filled from the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from freezer.errors import PredictorError
from freezer.predictor import tensorfile
from freezer.predictor.features import FEATURE_VERSION
from freezer.predictor.networks import ARCHITECTURES, Predictor

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED: tuple[str, ...] = ("smartfrz", "progress-only")


def save_predictor(predictor: Predictor, path: str | Path, description: dict[str, Any] | None = None) -> Path:
    """Write ``path`` (.safetensors) and ``path`` with .json beside it, each complete or not at all."""
    path = Path(path)
    header = {
        "format": "smartfrz-predictor",
        "architecture": predictor.architecture,
        "feature_version": str(FEATURE_VERSION),
        "config": json.dumps(predictor.config, sort_keys=True),
    }
    tensorfile.write(path, predictor.state_dict(), header)
    beside = {
        **header,
        "feature_version": FEATURE_VERSION,
        "config": predictor.config,
        "parameters": sum(p.numel() for p in predictor.parameters()),
        **(description or {}),
    }
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(beside, indent=2, sort_keys=True) + "\n")
    os.replace(scratch, path.with_suffix(".json"))
    return path


def load_predictor(name_or_path: str | Path = "smartfrz") -> Predictor:
    """A shipped predictor by name (:data:`SHIPPED`), or one from a file, on the CPU and in eval mode.

    Raises:
        PredictorError: no such file, a damaged one, or weights made for other features.
    """
    path = WEIGHTS / f"{name_or_path}.safetensors" if str(name_or_path) in SHIPPED else Path(name_or_path)
    if not path.is_file():
        raise PredictorError(f"no predictor weights at {path}; shipped by name: {', '.join(SHIPPED)}")
    header, state = tensorfile.read(path, "predictor weights")
    if header.get("format") != "smartfrz-predictor" or header.get("architecture") not in ARCHITECTURES:
        raise PredictorError(f"{path} holds no predictor of this library")
    if header.get("feature_version") != str(FEATURE_VERSION):
        found = header.get("feature_version")
        raise PredictorError(
            f"{path} was made for features {found}, this version has {FEATURE_VERSION}: train it again"
        )
    try:
        with torch.device("meta"):
            predictor = ARCHITECTURES[header["architecture"]](json.loads(header["config"]))
        predictor.load_state_dict(state, strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise PredictorError(f"predictor weights at {path} do not fit their own description: {error}") from error
    for parameter in predictor.parameters():
        parameter.requires_grad_(False)
    return predictor.eval()
