"""``thaw-last``: fine-tune the last layers first, on cached outputs of the frozen ones before them, and all at the end.

For models that start from trained weights. A two-stage form of gradual unfreezing (Howard & Ruder 2018, ULMFiT) and of
linear probing before fine-tuning (Kumar et al. 2022): what pre-training has settled costs nothing for most of the run,
and the passes that follow the thaw start from last layers that fit. What is thawed needs a rate: the policy sets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from freezer.config import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict
from freezer.units import Unit

_WARMUP = 0.1
"""Share of each stage in which the rate rises."""


class ThawLastPolicy(Defaults):
    """Options: ``share`` of the forward FLOPs frozen first (0.67), ``thaw``: progress at which they train (0.8).

    The rate of every unit rises to the initial rate and stays; at the thaw it rises anew and falls in a line to 0. The
    first unit stays frozen, with all before the first FLOP (embeddings): their gradients are the dearest to reach.
    """

    name = "thaw-last"
    calendar = True
    at_start = True

    def __init__(self, config: FreezeConfig) -> None:
        self.share = float(config.options.get("share", 0.67))
        self.thaw = float(config.options.get("thaw", 0.8))
        self.config = config

    def decide(self, context: PolicyContext) -> list[Verdict]:
        used = [unit for unit in context.units if unit.used]
        stage = self.stage(context.total_steps)
        if context.step > stage:
            return []  # what somebody ordered to be frozen since stays so
        if context.step < stage:
            first = [unit.name for unit in used[: opening(used, self.share)]]
            return [Verdict(name, True) for name in first if name not in context.frozen]
        return [Verdict(u.name, False, thaw=True) for u in used[stem(used) :] if u.name in context.frozen]

    def rates(self, step: int, total_steps: int, units: Sequence[Unit]) -> Mapping[str, float]:
        """One factor for all units; see the class."""
        turn = min(total_steps, self.stage(total_steps) + self.config.decision_delay)
        if step < turn:
            factor = min(1.0, (step + 1) / (_WARMUP * turn))
        else:
            done, length = step - turn, total_steps - turn
            warmup = _WARMUP * length
            factor = (done + 1) / (warmup + 1) if done < warmup else (length - done) / max(1.0, length - warmup)
        return dict.fromkeys((unit.name for unit in units if unit.used), factor)

    def stage(self, total_steps: int) -> int:
        """The step of the first freezing stage at or after ``thaw``; ``total_steps`` where there is none."""
        every = self.config.schedule(total_steps).decide_every
        found = -(-round(self.thaw * total_steps) // every) * every
        return max(every, found) if found < total_steps else total_steps


def opening(used: Sequence[Unit], share: float) -> int:
    """How many units from the input hold at most ``share`` of the forward FLOPs: whole blocks, never the last unit."""
    whole = sum(unit.flops for unit in used)
    spent, count = 0, 0
    for position, unit in enumerate(used[:-1]):
        spent += unit.flops
        if spent > share * whole:
            break
        if used[position + 1].block != unit.block:
            count = position + 1
    return max(count, min(stem(used), len(used) - 1))


def stem(used: Sequence[Unit]) -> int:
    """How many units come before the body: those without FLOPs at the input, at least one."""
    return max(1, next((i for i, unit in enumerate(used) if unit.flops), 0))
