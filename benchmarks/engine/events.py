"""Measures of what happens between steps: a freeze event, and a snapshot of many units."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engine.arms import Full, Watched, adamw
from benchmarks.engine.steps import Setting
from benchmarks.engine.timing import run_block, warm_up
from freezer import FreezeConfig, Freezer
from freezer.policies.base import Defaults, PolicyContext, Verdict, complete

EVENT_KINDS = ("agree", "apply")
"""Kinds of the freezer's own clock that make up an event: agreement, then rebuilding and verification."""
SNAPSHOT_UNITS = 160


class BlockByBlock(Defaults):
    """Freezes one block more at each freezing stage. A calendar: no probability, so the planner does as it says."""

    name = "block by block"
    calendar = True

    def __init__(self, last: int) -> None:
        self.last = last

    def decide(self, context: PolicyContext) -> list[Verdict]:
        order = list(dict.fromkeys(unit.block for unit in context.units))[: self.last + 1]
        left = [b for b in order if any(u.block == b and u.name not in context.frozen for u in context.units)]
        return [Verdict(u.name, True) for u in context.units if left and u.block == left[0]]


class Clocked(Watched):
    """Times ``freezer.step()`` itself, and each whole step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[dict[str, float]] = []
        self.quiet: list[float] = []
        self.device = next(self.model.parameters()).device

    def spent(self) -> float:
        return sum(self.freezer.costs.seconds.get(kind, 0.0) for kind in EVENT_KINDS)

    def after(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spent, started = self.spent(), time.perf_counter()
        event = self.freezer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        wall = time.perf_counter() - started
        if event is None:
            self.quiet.append(wall)
        else:
            self.events.append({"own": self.spent() - spent, "wall": wall})


def event(setting: Setting) -> dict[str, Any]:
    """Blocks are frozen one by one in a run; each event against a full step, timed before and after in this process.

    ``own`` is what the freezer's clock says, ``wall`` what ``freezer.step()`` took beyond its median without an event,
    ``next`` what the step after the event took beyond the one that follows it.
    """
    full = Full(setting.model())
    warm_up([full], setting.data, 2, setting.device)
    found: dict[str, list[float]] = {"own": [], "wall": [], "next": [], "step": []}
    wanted = 4 if setting.quick else 20
    while len(found["own"]) < wanted:
        found["step"].append(run_block(full, setting.data, 5, setting.device))
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            config = FreezeConfig(policy="none", decide_every=4, cache="off")
            policy = BlockByBlock(max(setting.workload.cuts.values()))
            arm = Clocked("events", setting.model(), config, policy=complete(policy, policy.name), directory=directory)
            stack.callback(arm.close)
            times: list[float] = []
            happened: list[int] = []
            for number in range(4 * (policy.last + 1) + 4):
                times.append(run_block(arm, setting.data, 1, setting.device))
                if len(arm.events) > len(happened):
                    happened.append(number)
            quiet = statistics.median(arm.quiet)
            found["own"] += [e["own"] for e in arm.events]
            found["wall"] += [e["wall"] - quiet for e in arm.events]
            found["next"] += [times[n + 1] - times[n + 2] for n in happened]
            if not arm.events:
                raise AssertionError("the policy froze nothing: there is no event to time")
    found["step"].append(run_block(full, setting.data, 5, setting.device))
    return {"seconds": found}


def snapshot(device: torch.device, repeats: int) -> dict[str, Any]:
    """160 linear units in a row in one process: what a snapshot adds to ``freezer.step()`` and to the next update.

    On the CPU the weights are gathered beside the next pass, and the update waits for it: both count. On an
    accelerator a second run raises if taking the snapshot waits for the device.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(SNAPSHOT_UNITS))).to(device)
    optimizer = adamw(model.parameters())
    total = 8 * (repeats + 2)
    config = FreezeConfig(policy="none", snapshot_every=4, cache="off")
    freezer = Freezer(model, optimizer, config, total_steps=total)
    inputs = torch.randn(256, 128, device=device)
    rows: list[tuple[float, float]] = []
    for _ in range(total):
        freezer.model(inputs).square().mean().backward()
        rows.append(_one(freezer, optimizer, device))
    taken, waited = _snapshot_seconds(rows, 4)
    synchronised = _waits_for_device(freezer, optimizer, inputs) if device.type == "cuda" else None
    units = len(freezer.units)
    freezer.close()
    return {"units": units, "taken": taken, "waited": waited, "synchronised": synchronised}


def _one(freezer: Freezer, optimizer: torch.optim.Optimizer, device: torch.device) -> tuple[float, float]:
    """Seconds of the update and of the freezer's step."""
    began = time.perf_counter()
    optimizer.step()
    updated = time.perf_counter()
    optimizer.zero_grad()
    zeroed = time.perf_counter()
    freezer.step()
    done = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return updated - began, done - zeroed


def _snapshot_seconds(rows: Sequence[tuple[float, float]], every: int) -> tuple[list[float], list[float]]:
    """What each snapshot added to ``freezer.step()`` and to the update after it, over the median without; s.

    ``rows`` are (update, freezer's step) of the steps 1, 2, ...; a snapshot follows each ``every``-th.
    """
    after = {number for number in range(len(rows)) if (number + 1) % every == 0}  # positions whose step took one
    first = 2 * every  # the first snapshots start threads
    quiet = statistics.median(rows[n][1] for n in range(first, len(rows)) if n not in after)
    plain = statistics.median(rows[n][0] for n in range(first, len(rows)) if n - 1 not in after)
    chosen = [n for n in sorted(after) if n >= first and n + 1 < len(rows)]
    return [rows[n][1] - quiet for n in chosen], [rows[n + 1][0] - plain for n in chosen]


def _waits_for_device(freezer: Freezer, optimizer: torch.optim.Optimizer, inputs: Tensor) -> bool:
    """Whether a snapshot, or the update after it, waits for the accelerator."""
    for _ in range(8):
        freezer.model(inputs).square().mean().backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
            freezer.step()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.zero_grad()
    return False
