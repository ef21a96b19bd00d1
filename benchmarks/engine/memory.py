"""What a frozen prefix still holds in memory, counted storage by storage, before and after the event."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.engine.arms import Cut, Loop, Watched, names_of_prefix
from benchmarks.engine.rivals import InPlace, Rewrapped, Rival
from benchmarks.engine.steps import Setting
from benchmarks.engine.timing import run_block, warm_up
from benchmarks.engine.workloads import Batch, loss_of
from freezer import FreezeConfig
from freezer.policies.base import Defaults, PolicyContext, Verdict, complete

FREEZE_AT = 4
"""Completed steps after which everything freezes here; moments exist by then."""


class All(Defaults):
    """Freezes the named units at the first stage."""

    name = "all at once"
    calendar = True

    def __init__(self, units: list[str]) -> None:
        self.units = units

    def decide(self, context: PolicyContext) -> list[Verdict]:
        return [Verdict(name, True) for name in self.units if name not in context.frozen]


def memory(setting: Setting) -> dict[str, Any]:
    """Half of the FLOPs freeze in a running run: bytes before and after, for us and for the rivals."""
    names = names_of_prefix(setting.model(), setting.data.batch(0), setting.workload.cuts[50])
    by_hand = Cut("cut", setting.model(), setting.workload, setting.workload.cuts[50])
    warm_up([by_hand], setting.data, 2, setting.device)
    batch = setting.data.batch(0)
    suffix = saved_bytes(by_hand, batch)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = FreezeConfig(policy="none", decide_every=FREEZE_AT, cache="off")
        ours = Watched("freezer", setting.model(), config, policy=complete(All(names), All.name), directory=directory)
        stack.callback(ours.close)
        warm_up([ours], setting.data, FREEZE_AT - 1, setting.device)
        units = {unit.name: unit for unit in ours.freezer.units}
        chosen = {parameter for name in names for parameter in units[name].params}
        found = {"freezer": watch(ours, chosen, batch, suffix, setting, lambda: ours.freezer.plan.frozen != ())}
    for make in (InPlace, Rewrapped):
        arm: Rival = make(make.__name__, setting.model(), chosen, freeze_after=FREEZE_AT + 1)
        warm_up([arm], setting.data, FREEZE_AT - 1, setting.device)
        found[_TITLES[make]] = watch(arm, chosen, batch, suffix, setting, arm.is_frozen)
    return {"arms": found, "cut": 50}


_TITLES: dict[type[Rival], str] = {InPlace: "in place", Rewrapped: "re-wrapped"}


def watch(
    arm: Loop, chosen: set[str], batch: Batch, suffix: int, setting: Setting, frozen: Callable[[], bool]
) -> dict[str, Any]:
    """Bytes that the chosen parameters hold before they freeze and after.

    Call it on an arm that is about to make its last full step. ``activations`` is what a pass keeps for backward
    beyond what the suffix alone keeps, cut by hand.
    """
    parameters = [p for name, p in arm.model.named_parameters() if name.removeprefix("module.") in chosen]
    rest = [p for name, p in arm.model.named_parameters() if name.removeprefix("module.") not in chosen]
    buckets: list[Bucket] = []

    def note(*_: Any) -> None:  # during the update: every gradient is there, in the buckets of the wrapper of the day
        buckets.extend(Bucket.of([p.grad for p in parameters if p.grad is not None]))

    handle = arm.optimizer.register_step_pre_hook(note)
    run_block(arm, setting.data, 1, setting.device)
    handle.remove()
    before = {
        "parameters": _bytes(parameters),
        "gradients": sum(p.numel() * p.element_size() for p in parameters),
        "moments": moments_in_memory(arm.optimizer, parameters),
        "activations": saved_bytes(arm, batch) - suffix,
    }
    for _ in range(3):
        if not frozen():
            run_block(arm, setting.data, 1, setting.device)
    if not frozen():
        raise AssertionError(f"{arm.name} did not freeze")
    run_block(arm, setting.data, 2, setting.device)  # the first step rebuilds the wrapper's buckets
    used: list[Bucket] = []
    handle = arm.optimizer.register_step_pre_hook(
        lambda *_: used.extend(Bucket.of([p.grad for p in rest if p.grad is not None]))
    )
    run_block(arm, setting.data, 1, setting.device)
    handle.remove()
    after = {
        "parameters": _bytes(parameters),
        "gradients": left_over(buckets, used),
        "moments": moments_in_memory(arm.optimizer, parameters),
        "activations": saved_bytes(arm, batch) - suffix,
    }
    return {"before": before, "after": after}


@dataclass(frozen=True, slots=True)
class Bucket:
    """One storage with gradients: whether it is still alive, its size, and the gradients' own bytes in it."""

    alive: Any
    size: int
    inside: int

    @classmethod
    def of(cls, gradients: Iterable[Tensor]) -> list[Bucket]:
        groups: dict[int, list[Tensor]] = {}
        for gradient in gradients:
            groups.setdefault(gradient.untyped_storage().data_ptr(), []).append(gradient)
        return [
            cls(StorageWeakRef(g[0].untyped_storage()), g[0].untyped_storage().nbytes(), _bytes(g))  # type: ignore[no-untyped-call]
            for g in groups.values()
        ]


def left_over(before: Iterable[Bucket], used: Iterable[Bucket]) -> int:
    """Bytes that gradients of frozen parameters still hold.

    A storage that nobody uses any more counts whole; of one that active gradients use, the frozen ones' part.
    """
    now = {bucket.alive for bucket in used}
    alive = [bucket for bucket in before if not bucket.alive.expired()]
    return sum(bucket.inside if bucket.alive in now else bucket.size for bucket in alive)


def moments_in_memory(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of optimizer state in the memory that training uses: the parameter's own device, not a mapped file."""
    total = 0
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if not isinstance(value, Tensor) or value.dim() == 0:
                continue  # the step count, four bytes on the host
            mapped = value.device.type == "cpu" and value.untyped_storage().filename is not None
            total += 0 if mapped or value.device != parameter.device else value.numel() * value.element_size()
    return total


def saved_bytes(arm: Loop, batch: Batch) -> int:
    """Bytes that a training pass keeps for backward, parameters apart; every storage counts once."""
    known = {p.untyped_storage().data_ptr() for p in arm.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(arm.logits(batch), batch)
    total = sum(seen.values())  # while the graph lives, so that no address is used twice
    loss.backward()  # type: ignore[no-untyped-call]  # a wrapper wants each forward pass to have its backward pass
    arm.optimizer.zero_grad()
    return total


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
