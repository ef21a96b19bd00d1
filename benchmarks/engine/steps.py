"""Measures of step time: attached, with a frozen prefix, with the forward cache; and the rivals beside them."""

from __future__ import annotations

import copy
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.engine.arms import (
    TOTAL_STEPS,
    Cut,
    CutInMemory,
    Full,
    Loop,
    Replaying,
    Watched,
    frozen_config,
    names_of_prefix,
)
from benchmarks.engine.rivals import InPlace, Rewrapped
from benchmarks.engine.timing import same_losses, take_turns, warm_up
from benchmarks.engine.workloads import BATCHES, Data, Workload
from freezer import FreezeConfig
from freezer.cost import step_flops
from freezer.units import survey

PIECES = 5
"""Of a period of freezing stages, run in turns with plain training."""
SAME = 1e-4
"""Relative difference of losses up to which two arms count as doing the same work."""


@dataclass(slots=True)
class Setting:
    """What every measure on one rank works with."""

    workload: Workload
    device: torch.device
    rank: int
    repeats: int
    quick: bool
    data: Data
    base: nn.Module

    @classmethod
    def make(cls, workload: Workload, device: torch.device, rank: int, repeats: int, quick: bool) -> Setting:
        torch.manual_seed(0)
        base = workload.make().to(device)
        return cls(workload, device, rank, repeats, quick, workload.data(rank, device), base)

    def model(self) -> nn.Module:
        """A copy with the same weights, for one arm."""
        return copy.deepcopy(self.base).train()

    def prefix(self, cut: int) -> list[str]:
        """Names of the units of a prefix with ``cut`` per cent of the forward FLOPs."""
        return names_of_prefix(self.model(), self.data.batch(0), self.workload.cuts[cut])


def attached(setting: Setting) -> dict[str, Any]:
    """The freezer watches, decides, and never freezes; against plain training.

    A block is one whole period of freezing stages, so that each holds its share of snapshots and one decision on full
    windows. It is run in pieces, and a stage falls in the middle of one: its verdict is waited for in the same piece.
    The windows are filled beforehand by steps without an update. Intervals are those of a run of ``TOTAL_STEPS``.
    """
    intervals = FreezeConfig().schedule(TOTAL_STEPS)
    config = FreezeConfig(
        cache="off",
        patience=10**6,
        snapshot_every=intervals.snapshot_every,
        decide_every=intervals.decide_every,
    )
    schedule = config.schedule(100 * TOTAL_STEPS)
    watched = Watched("attached", setting.model(), config, total_steps=100 * TOTAL_STEPS)
    plain = Full(setting.model(), "plain")
    block, piece = schedule.decide_every, schedule.decide_every // PIECES
    with ExitStack() as stack:
        stack.callback(watched.close)
        warm_up([plain, watched], setting.data, 2, setting.device)
        filled = (config.length - 1) * schedule.snapshot_every
        while watched.freezer.steps < filled or watched.freezer.steps % block != (-piece // 2 - 2) % block:
            watched.optimizer.step()  # no gradients: nothing moves
            watched.freezer.step()
        warm_up([plain, watched], setting.data, 2, setting.device)
        blocks = take_turns(
            [plain, watched],
            setting.data,
            steps=block,
            repeats=1 if setting.quick else setting.repeats,
            device=setting.device,
            pieces=PIECES,
        )
        return {
            "blocks": blocks,
            "steps_per_block": block,
            "loss_difference": _checked(watched, plain),
            "snapshots": schedule.snapshot_every,
            "stages": schedule.decide_every,
            "units": len(watched.freezer.units),
            "overhead_seconds": watched.freezer.costs.seconds,
        }


def prefix(setting: Setting) -> dict[str, Any]:
    """A frozen prefix of each size against the loop cut by hand; full training and, at the half, the rivals beside."""
    arms: list[Loop] = [Full(setting.model())]
    ideal, bytes_ratio = {}, {}
    with ExitStack() as stack:
        for cut, blocks in setting.workload.cuts.items():
            names = setting.prefix(cut)
            ours = Watched(f"frozen {cut}", setting.model(), frozen_config(names))
            stack.callback(ours.close)
            arms += [ours, Cut(f"cut {cut}", setting.model(), setting.workload, blocks)]
            ideal[str(cut)] = ideal_ratio(setting, names)
            if cut == 50:
                held = parameters_of(setting, names)
                arms += [InPlace("in place", setting.model(), held), Rewrapped("re-wrapped", setting.model(), held)]
        warm_up(arms, setting.data, 4, setting.device)
        steps = 3 if setting.quick else 6
        blocks_of = take_turns(arms, setting.data, steps=steps, repeats=setting.repeats, device=setting.device)
        by_name = {arm.name: arm for arm in arms}
        differences = {}
        for cut in setting.workload.cuts:
            mine = by_name[f"frozen {cut}"]
            assert isinstance(mine, Watched)
            differences[str(cut)] = _checked(mine, by_name[f"cut {cut}"])
            bytes_ratio[str(cut)] = reduced_ratio(mine, setting)
        return {
            "blocks": blocks_of,
            "steps_per_block": steps,
            "ideal": ideal,
            "loss_difference": differences,
            "bytes": bytes_ratio,
        }


def cached(setting: Setting) -> dict[str, Any]:
    """The same with the forward cache, against the suffix trained on outputs that lie in memory."""
    found: dict[str, Any] = {"blocks": {}, "states": {}, "loss_difference": {}, "ideal": {}, "fill_steps": {}}
    steps = 3 if setting.quick else 6
    for cut, blocks in setting.workload.cuts.items():
        if setting.quick and cut != 50:
            continue
        names = setting.prefix(cut)
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ours = Replaying(
                f"cached {cut}",
                setting.model(),
                frozen_config(names, cache="auto"),
                directory=directory,
                samples=len(setting.data.labels),
            )
            stack.callback(ours.close)
            theirs = CutInMemory(f"in memory {cut}", setting.model(), setting.workload, blocks, setting.data)
            state, reason = "waiting", ""
            # the first epoch fills it; in the second it may be tried
            while ours.count < 2 * BATCHES or (state in ("waiting", "trial") and ours.count < 4 * BATCHES):
                warm_up([ours], setting.data, 4, setting.device)
                state, reason = cache_state(ours)
            found["fill_steps"][str(cut)] = ours.count
            found["states"][str(cut)] = [state, reason]
            warm_up([theirs], setting.data, ours.count, setting.device)
            if state != "on":
                continue
            found["blocks"].update(
                take_turns([ours, theirs], setting.data, steps=steps, repeats=setting.repeats, device=setting.device)
            )
            found["loss_difference"][str(cut)] = _checked(ours, theirs)
    return found


def cache_state(arm: Watched) -> tuple[str, str]:
    """State of an arm's forward cache, the same on every rank, and the reason for it."""
    arm_cache = arm.freezer.report().get("cache") or {}
    state, reason = str(arm_cache.get("state", "off")), str(arm_cache.get("reason") or "")
    if not dist.is_initialized():
        return state, reason
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, (state, reason))
    least = min(said, key=lambda pair: ("refused", "off", "waiting", "trial", "on").index(pair[0]))
    return str(least[0]), str(least[1])


def ideal_ratio(setting: Setting, frozen: list[str]) -> float:
    """FLOPs of a step with these units frozen / of a full one, by the model of costs."""
    found = survey(setting.model(), (), setting.data.batch(0).kwargs, "layer")
    return step_flops(found, frozen).total / step_flops(found).total


def reduced_ratio(arm: Watched, setting: Setting, steps: int = 2) -> float | None:
    """Bytes that all-reduce was given in a step / bytes of the active parameters; ``None`` in a single process."""
    if not dist.is_initialized():
        return None
    before = arm.freezer.costs.bytes_measured
    for _ in range(steps):
        arm.step(setting.data.batch(arm.count))
    active = sum(p.numel() * p.element_size() for p in arm.model.parameters() if p.requires_grad)
    return (arm.freezer.costs.bytes_measured - before) / steps / active


def parameters_of(setting: Setting, names: list[str]) -> set[str]:
    units = survey(setting.model(), (), setting.data.batch(0).kwargs, "layer").units
    return {parameter for unit in units if unit.name in names for parameter in unit.params}


def _checked(ours: Loop, theirs: Loop) -> float:
    """Two arms that do not train alike must not be compared."""
    difference = same_losses(ours, theirs)
    if not difference <= SAME:
        raise AssertionError(f"{ours.name} and {theirs.name} differ in their losses by {difference:.2g} (relative)")
    return difference
