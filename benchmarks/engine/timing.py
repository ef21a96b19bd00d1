"""Arms take turns in short blocks of steps; a figure is the median of the ratios of blocks that ran side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.engine.arms import Loop
from benchmarks.engine.workloads import Data

Blocks = dict[str, list[float]]
"""Seconds per step of every block of each arm, in the order of the repeats."""


def together(device: torch.device) -> None:
    """Wait for the device and for the other ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.barrier()


def run_block(arm: Loop, data: Data, steps: int, device: torch.device) -> float:
    """Seconds a step takes, the mean of a block; batches are made before the clock starts."""
    batches = [data.batch(arm.count + i) for i in range(steps)]
    together(device)
    started = time.perf_counter()
    for batch in batches:
        arm.step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / steps


def take_turns(
    arms: Sequence[Loop], data: Data, *, steps: int, repeats: int, device: torch.device, pieces: int = 1
) -> Blocks:
    """``repeats`` blocks of ``steps`` steps of each arm; every second round runs backwards, so that drift cancels.

    Arms that are compared must stand beside each other. Warm them up before. A long block is run in ``pieces`` of
    equal length, between which the arms take turns too: the machine's speed changes within seconds.
    """
    blocks: Blocks = {arm.name: [] for arm in arms}
    for repeat in range(repeats):
        seconds = dict.fromkeys(blocks, 0.0)
        for piece in range(pieces):
            for arm in arms if (repeat + piece) % 2 == 0 else reversed(arms):
                seconds[arm.name] += run_block(arm, data, steps // pieces, device) / pieces
        for name, taken in seconds.items():
            blocks[name].append(taken)
    return blocks


def warm_up(arms: Sequence[Loop], data: Data, steps: int, device: torch.device) -> None:
    for arm in arms:
        run_block(arm, data, steps, device)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Pair by pair."""
    return [a / b for a, b in zip(over, under, strict=True)]


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of paired blocks."""
    return statistics.median(ratios(over, under))


def spread(values: Sequence[float]) -> list[float]:
    """Lower and upper quartile; of fewer than two values the value itself, twice."""
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def same_losses(ours: Loop, theirs: Loop) -> float:
    """Largest relative difference between two arms' losses, step by step, as far as both went."""
    pairs = list(zip(ours.losses, theirs.losses, strict=False))
    if not pairs:
        return 0.0
    a, b = (torch.stack([pair[side] for pair in pairs]).double() for side in (0, 1))
    return float(((a - b).abs() / b.abs().clamp(min=1e-12)).max())


def seconds_of(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
