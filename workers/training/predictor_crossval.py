"""Every predictor, with every network and data set left out in turn: the scores, and weights that saw all but one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freezer.offline.crossval import honest_probabilities, leave_one_out, train
from freezer.offline.summary import SCHEMES, Summary
from freezer.offline.train import DEFAULTS, Prepared, Recipe, prepare, readable
from freezer.offline.windows import Example
from freezer.predictor.model import save_predictor


def crossval(
    examples: Sequence[Example],
    architectures: Sequence[str],
    changes: Mapping[str, Any],
    recipe: Recipe,
    *,
    weights: Path | None = None,
    about: Mapping[str, Any],
    say: Callable[[str], None],
) -> Summary:
    """Scores of every example by predictors that did not see its network, and its data set.

    Args:
        changes: to the settings of every architecture that has them.
        weights: folder for ``<architecture>-without-<network>.safetensors``.
    """
    scores: dict[str, dict[str, Tensor]] = {scheme: {} for scheme in SCHEMES}
    seconds: dict[str, float] = {}
    for name in architectures:
        started = time.monotonic()
        config = {**DEFAULTS[name], **{key: value for key, value in changes.items() if key in DEFAULTS[name]}}
        rows = [i for i, example in enumerate(examples) if readable(name, example.window)]
        chosen = [examples[i] for i in rows]
        data = prepare(name, config, chosen)
        for scheme in SCHEMES:
            left_out = leave_one_out(name, config, data, recipe, [str(getattr(e, scheme)) for e in chosen])
            whole = torch.full((len(examples),), math.nan)
            whole[rows] = honest_probabilities(left_out, data)
            scores[scheme][name] = whole
            best = left_out.best_epoch(data)
            say(f"{name}, {scheme} left out: log loss {left_out.losses(data)[best]:.4f} after {best + 1} epochs")
        if weights is not None:
            _keep(name, config, data, recipe, weights, say)
        seconds[name] = round(time.monotonic() - started, 1)
    runs = sorted({(e.run, e.network, e.dataset) for e in examples})
    number = {run: i for i, (run, _, _) in enumerate(runs)}
    return Summary(
        [{"name": run, "network": network, "dataset": dataset} for run, network, dataset in runs],
        torch.tensor([number[e.run] for e in examples]),
        torch.tensor([e.unit for e in examples]),
        torch.tensor([e.window.progress for e in examples]),
        torch.tensor([len(e.window.steps) for e in examples]),
        torch.tensor([e.label for e in examples]),
        scores,
        {**about, "recipe": asdict(recipe), "config": dict(changes), "seconds": seconds},
    )


def _keep(
    name: str, config: dict[str, Any], data: Prepared, recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> None:
    """For each network the predictor of all the others: a policy on that network is judged with this one."""
    for network in sorted(set(data.networks)):
        rest = torch.tensor([other != network for other in data.networks]).nonzero().flatten()
        part = data.select(rest)
        predictor, _ = train(name, config, part, recipe, part.networks)
        path = save_predictor(predictor, folder / f"{name}-without-{network}.safetensors", {"without": network})
        say(f"  {path}")
