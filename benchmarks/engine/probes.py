"""What goes right and wrong in each way of freezing, beside its speed: looked at in a short run of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.engine.arms import Loop, Watched, names_of_prefix
from benchmarks.engine.memory import FREEZE_AT, All
from benchmarks.engine.rivals import InPlace, Rewrapped, Rival
from benchmarks.engine.steps import Setting, parameters_of
from benchmarks.engine.timing import run_block
from freezer import FreezeConfig
from freezer.policies.base import complete


def probes(setting: Setting) -> dict[str, Any]:
    """Half of the FLOPs freeze after a few steps; then three more steps are looked at, in each arm."""
    names = names_of_prefix(setting.model(), setting.data.batch(0), setting.workload.cuts[50])
    chosen = parameters_of(setting, names)
    found = {}
    with ExitStack() as stack:
        config = FreezeConfig(policy="none", decide_every=FREEZE_AT, cache="off")
        ours = Watched("freezer", setting.model(), config, policy=complete(All(names), All.name))
        stack.callback(ours.close)
        _run(ours, setting, FREEZE_AT + 2)
        spent = sum(ours.freezer.costs.seconds.get(kind, 0.0) for kind in ("agree", "apply"))
        sent = lambda: ours.freezer.costs.bytes_measured  # noqa: E731
        found["freezer"] = {**look(ours, chosen, setting, sent), "event_seconds": spent}
    for title, make in (("in place", InPlace), ("re-wrapped", Rewrapped)):
        arm: Rival = make(title, setting.model(), chosen, FREEZE_AT, count=True)
        _run(arm, setting, FREEZE_AT + 2)
        found[title] = {**look(arm, chosen, setting, arm.sent), "event_seconds": arm.seconds}
    return found


def look(arm: Loop, chosen: set[str], setting: Setting, sent: Callable[[], int], steps: int = 3) -> dict[str, Any]:
    """Take ``steps`` steps with half of the model frozen and say what moved."""
    bare = getattr(arm.model, "module", arm.model)
    still = {name: p for name, p in bare.named_parameters() if name in chosen}
    paths = {name.rsplit(".", 1)[0] for name in still}
    buffers = {n: b for n, b in bare.named_buffers() if n.rsplit(".", 1)[0] in paths and n.endswith("running_mean")}
    weights, means, before = _copies(still), _copies(buffers), sent()
    _run(arm, setting, steps)
    reduced = (sent() - before) / steps
    active = sum(p.numel() * p.element_size() for p in bare.parameters() if p.requires_grad)
    return {
        "frozen_weights_moved": _moved(weights, still),
        "batchnorm_statistics_moved": _moved(means, buffers) if buffers else None,
        "optimizer_state_dict": _state_dict(arm),
        "ranks_hold_equal_weights": _ranks_equal(bare),
        "allreduce_bytes_over_active": reduced / active if dist.is_initialized() else None,
    }


def _run(arm: Loop, setting: Setting, steps: int) -> None:
    run_block(arm, setting.data, steps, setting.device)


def _copies(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}


def _moved(before: dict[str, Tensor], now: dict[str, Any]) -> bool:
    return any(not torch.equal(before[name], now[name].detach()) for name in before)


def _state_dict(arm: Loop) -> str:
    try:
        arm.optimizer.state_dict()
    except (KeyError, ValueError) as error:
        return f"raises {type(error).__name__}"
    return "works"


def _ranks_equal(model: nn.Module) -> bool | None:
    if not dist.is_initialized():
        return None
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, [float(p.detach().double().sum()) for p in model.parameters()])
    return all(other == said[0] for other in said)
