"""Train a model while recording what a predictor would have seen, and how far each unit was from its finished self."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freezer.config import UnitGrain
from freezer.offline.corpus import Run, RunMeta, is_done, save_run
from freezer.offline.probe import Inputs, unit_grams
from freezer.policies.learned import lr_ratio
from freezer.similarity import minibatch_cka
from freezer.trajectory import Sampler
from freezer.units import discover


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training run, ready to start.

    Attributes:
        model: on its device.
        optimizer: over the model's parameters.
        batches: yields at least ``total_steps`` batches; what is in them is up to ``loss``.
        loss: ``(model, batch) -> scalar``.
        total_steps: optimizer steps.
        probes: inputs of the similarity probe: *training* data held out from ``batches``, minibatches of >= 4 samples.
        after_step: e.g. the learning-rate scheduler's ``step``.
        outcome: measured after the end, e.g. accuracy.
        grad_clip: largest gradient norm.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    total_steps: int
    probes: Sequence[Inputs]
    after_step: Callable[[], None] | None = None
    outcome: Callable[[nn.Module], dict[str, float]] | None = None
    grad_clip: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run to collect: its identity, and how to make it. ``make`` must be deterministic given the plan."""

    name: str
    network: str
    dataset: str
    seed: int
    pretrained: bool
    make: Callable[[], Training]
    recipe: dict[str, Any] = field(default_factory=dict)


def collect(
    plan: RunPlan,
    directory: Path,
    *,
    samples: int = 1024,
    snapshots: int = 240,
    probes: int = 20,
    grain: UnitGrain = "layer",
    progress: Callable[[str], None] = lambda _: None,
) -> bool:
    """Collect one run into ``directory``; ``False`` where it was there already.

    Snapshots are spread evenly over the run, at most one a step; so are the probes, the last one at the end.
    """
    if is_done(directory, plan.name):
        progress(f"{plan.name}: done before")
        return False
    started = time.monotonic()
    training = plan.make()
    model, total = training.model, training.total_steps
    units = [unit for unit in discover(model, *training.probes[0], grain) if unit.used]
    sampler = Sampler(units, model, samples, seed=0)
    names = [unit.name for unit in units]
    every = max(1, total // snapshots)
    probe_at = {round(i * total / probes) for i in range(probes + 1)}
    peak = training.optimizer.param_groups[0]["lr"]

    rows: list[Tensor] = []
    steps: list[int] = []
    rates: list[float] = []
    grams: dict[int, dict[str, list[Tensor]]] = {}
    losses: list[float] = []
    batches = iter(training.batches)
    for step in range(total + 1):
        if step:
            losses.append(train_step(training, next(batches)))
        if step % every == 0:
            rows.append(_row(sampler.sample(names), names))
            steps.append(step)
            rates.append(lr_ratio(training.optimizer.param_groups[0]["lr"], peak))
        if step in probe_at:
            grams[step] = unit_grams(model, units, training.probes)
            recent = sum(losses[-20:]) / max(1, len(losses[-20:]))
            progress(f"{plan.name}: step {step}/{total}, loss {recent:.3f}, {time.monotonic() - started:.0f} s")

    outcome = {"final_loss": sum(losses[-20:]) / len(losses[-20:])}
    if training.outcome is not None:
        outcome.update(training.outcome(model))
    meta = RunMeta(
        name=plan.name,
        network=plan.network,
        dataset=plan.dataset,
        seed=plan.seed,
        pretrained=plan.pretrained,
        units=names,
        total_steps=total,
        recipe=plan.recipe,
        outcome=outcome,
        seconds=round(time.monotonic() - started, 1),
    )
    cka = similarity_to_finished(grams, names)
    save_run(directory, Run(meta, torch.stack(rows), torch.tensor(steps), torch.tensor(rates), cka[0], cka[1]))
    progress(f"{plan.name}: saved, {meta.seconds:.0f} s, {outcome}")
    return True


def similarity_to_finished(grams: dict[int, dict[str, list[Tensor]]], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Probe steps int64 ``(P,)`` and CKA float32 ``(P, U)`` of every probe against the last one."""
    steps = sorted(grams)
    finished = grams[steps[-1]]
    rows = [
        [minibatch_cka(grams[step][name], finished[name]) if name in finished else math.nan for name in names]
        for step in steps
    ]
    return torch.tensor(steps), torch.tensor(rows)


def train_step(training: Training, batch: Any) -> float:
    """One optimizer step; its loss."""
    training.model.train()
    loss = training.loss(training.model, batch)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if training.grad_clip is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), training.grad_clip)
    training.optimizer.step()
    if training.after_step is not None:
        training.after_step()
    return float(loss.detach())


def _row(sampled: dict[str, bytes], names: Sequence[str]) -> Tensor:
    """One snapshot of all units, float32 ``(U, samples)``."""
    return torch.frombuffer(bytearray(b"".join(sampled[name] for name in names)), dtype=torch.float32).view(
        len(names), -1
    )
