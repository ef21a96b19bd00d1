"""What each of two ranks runs for the facts: ``python -m tests.distributed.facts RANK WORLD FOLDER``.

``plain_*`` show what PyTorch does by itself; the others what the engine's parts (:class:`Applier`, :class:`DDP`) do.
All in one pair of processes; each writes ``FOLDER/<scenario>/<rank>.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from freezer.apply import Applier
from freezer.errors import FreezerError
from freezer.parallel import DDP
from freezer.units import discover
from tests.unit.freezer.toys import ResNet, images

torch.set_num_threads(1)
WIDTH = 8


class Stack(nn.Module):
    """Six equal layers in a row, each a block; ``reentrant`` checkpoints all but the last."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(6))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            cut = self.reentrant is not None and torch.is_grad_enabled()
            x = checkpoint(layer, x, use_reentrant=self.reentrant) if cut else layer(x)
        return self.layers[-1](x)


class Adapted(nn.Module):
    """Layers that the user froze from the start; the upper ones have low-rank adapters beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.ModuleList(nn.Linear(WIDTH, WIDTH).requires_grad_(False) for _ in range(6))
        self.down = nn.ModuleDict({str(i): nn.Linear(WIDTH, 2, bias=False) for i in (2, 3, 4, 5)})
        self.up = nn.ModuleDict({str(i): nn.Linear(2, WIDTH, bias=False) for i in (2, 3, 4, 5)})

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        for i in range(start, 6):
            adapted = self.up[str(i)](self.down[str(i)](x)) if str(i) in self.up else 0
            x = torch.tanh(self.base[i](x) + adapted)
        return x


class Engine:
    """The parts that the freezer conducts, without a policy: freeze at will."""

    def __init__(self, model: nn.Module, batch: Tensor, spill: Path | None = None) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
        self.applier = Applier(model, discover(model, (batch,), {}, "layer"), self.optimizer, spill=spill)
        self.parallel = DDP()
        self.live: Any = None
        self.freeze([], first=True)

    def freeze(self, names: Collection[str], first: bool = False) -> None:
        self.live = None  # the old wrapper's hooks go with it
        self.applier.apply(names)
        ignore = [*self.applier.unused, *self.applier.still_buffers]
        self.live = self.parallel.wrap(self.model, first=first, ignore=ignore)
        self.applier.remember_buffers()
        if first:
            self.applier.remember()
        self.parallel.reduced()

    def backward(self, batch: Tensor) -> None:
        self.model.train()
        self.live(batch).square().mean().backward()

    def step(self, batch: Tensor) -> None:
        self.backward(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()


def stack(reentrant: bool | None = None) -> Stack:
    torch.manual_seed(0)
    return Stack(reentrant)


def batch(step: int, rank: int) -> Tensor:
    torch.manual_seed(100 + 2 * step + rank)
    return torch.randn(4, WIDTH)


def apart(tensors: Collection[Tensor]) -> float:
    """Largest difference between the ranks."""
    flat = torch.cat([t.detach().flatten().double() for t in tensors])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    return (both[0] - both[1]).abs().max().item()


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


class Buckets:
    """What a communication hook saw: bytes of all buckets, and how often the last one came."""

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self.bytes = self.syncs = 0

        def count(state: Any, bucket: Any) -> Any:
            self.bytes += bucket.buffer().numel() * bucket.buffer().element_size()
            self.syncs += bucket.is_last()
            return allreduce_hook(state, bucket)

        count.__annotations__ = {}  # DDP compares them as objects
        wrapper.register_comm_hook(None, count)


def counted(model: nn.Module, **options: Any) -> tuple[DistributedDataParallel, Buckets]:
    """A plain wrapper that counts what it reduces."""
    wrapper = DistributedDataParallel(model, **options)
    return wrapper, Buckets(wrapper)


def scenario_plain_freeze_under_a_live_wrapper(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    live = DistributedDataParallel(model)
    live(batch(0, rank)).sum().backward()
    before = apart(gradients(model))
    model.zero_grad()
    model.layers[0].requires_grad_(False)
    live(batch(1, rank)).sum().backward()
    after = apart(gradients(model))
    model.zero_grad()
    try:
        live(batch(2, rank)).sum().backward()
        text = ""
    except RuntimeError as error:
        text = str(error)
    return {"before": before, "after": after, "second": text}


def scenario_plain_thaw_under_a_live_wrapper(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    model.layers[0].requires_grad_(False)
    live = DistributedDataParallel(model)
    thawed, others = [], []
    for step in range(4):
        model.layers[0].requires_grad_(step > 0)
        live(batch(step, rank)).sum().backward()
        thawed.append(apart(gradients(model.layers[0])) if step else 0.0)
        others.append(apart(gradients(model.layers[1:])))
        model.zero_grad()
    return {"thawed": thawed, "others": others}


def scenario_plain_unused(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    live, count = counted(model, find_unused_parameters=True)
    model.layers[:4].requires_grad_(False)
    for step in range(2):
        live(batch(step, rank)).sum().backward()
        model.zero_grad()
    found = count.bytes // 2
    del live
    live, count = counted(model, init_sync=False)
    live(batch(2, rank)).sum().backward()
    return {"full": sum(p.nbytes for p in model.parameters()), "find_unused": found, "fresh": count.bytes}


def scenario_plain_disagree(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    model.layers[rank].requires_grad_(False)
    live = DistributedDataParallel(model)
    before = apart(list(model.parameters()))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for step in range(2):
        optimizer.zero_grad()
        live(batch(step, rank)).sum().backward()
        optimizer.step()
    after = apart(list(model.parameters()))
    model.layers[0].requires_grad_(True)  # now one rank trains a layer more than the other
    model.layers[1].requires_grad_(rank == 0)
    try:
        DistributedDataParallel(model)
        text = ""
    except RuntimeError as error:
        text = str(error)
    return {"before": before, "after": after, "counts": text}


def scenario_plain_set_optimizer_state(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    model(batch(0, rank)).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    optimizer.zero_grad()
    by_name, by_index = get_optimizer_state_dict(model, optimizer), optimizer.state_dict()
    model.layers[0].requires_grad_(False)
    kept = []
    for load in (
        lambda fresh: set_optimizer_state_dict(model, fresh, by_name),
        lambda fresh: fresh.load_state_dict(by_index),
    ):
        fresh = torch.optim.AdamW(model.parameters())
        load(fresh)
        kept.append(sum("exp_avg" in fresh.state.get(p, {}) for p in model.parameters()))
    return {"set": kept[0], "load": kept[1], "all": len(list(model.parameters()))}


def scenario_scaler(rank: int, folder: Path) -> dict[str, Any]:
    """Fails when everything is frozen; works on with a frozen prefix, as loss scales and weights stay equal."""
    model = stack()
    idle = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    scaler.scale(torch.ones((), requires_grad=True) * 1.0).backward()
    try:
        scaler.step(idle)
        text = ""
    except AssertionError as error:
        text = str(error)

    engine = Engine(model, batch(0, rank))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    for step in range(6):
        if step == 2:
            engine.freeze(["layers.0.0", "layers.1.0"])
            frozen = model.layers[0][0].weight.detach().clone()
        scaler.scale(engine.live(batch(step, rank)).square().mean()).backward()
        scaler.step(engine.optimizer)
        scaler.update()
        engine.optimizer.zero_grad()
    return {
        "assertion": text,
        "scale": scaler.get_scale(),
        "still": torch.equal(frozen, model.layers[0][0].weight),
        "apart": apart(list(model.parameters())),
    }


def scenario_statistics(rank: int, folder: Path) -> dict[str, Any]:
    """Each rank has its own batch statistics when a norm is frozen: from there on they must be rank 0's."""
    torch.manual_seed(0)
    model, names = ResNet(), ["conv", "layer1.0.conv1"]
    torch.manual_seed(rank)
    engine = Engine(model, images())
    engine.step(images())
    norms = [model.bn.running_mean, model.layer1[0].bn1.running_var]
    before, rank0 = apart(norms), [n.clone() for n in norms]
    engine.freeze(names)
    after = apart(norms)
    held = [n.clone() for n in norms]
    sent = sorted(engine.live.named_module_buffers)
    for _ in range(2):
        engine.step(images())
    engine.freeze(names)  # verifies on both ranks that nothing moved since
    return {
        "before": before,
        "after": after,
        "is_rank0s": rank != 0 or all(map(torch.equal, rank0, held)),
        "still": all(map(torch.equal, held, norms)),
        "sent": sent,
        "all": len(list(model.buffers())),
        "weights": apart(list(model.parameters())),
    }


def scenario_first_weights(rank: int, folder: Path) -> dict[str, Any]:
    """The first wrapping makes everything rank 0's, what takes no part included."""

    class Unused(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.Linear(WIDTH, WIDTH)

    torch.manual_seed(rank)
    model = Unused()
    before = apart(list(model.parameters()))
    engine = Engine(model, batch(0, rank))
    for step in range(3):
        if step == 1:
            engine.freeze(["layers.0.0"])
        engine.step(batch(step, rank))
    return {"before": before, "after": apart(list(model.parameters())), "unused": sorted(engine.applier.unused)}


def scenario_reentrant(rank: int, folder: Path) -> dict[str, Any]:
    model = stack(reentrant=True)
    engine = Engine(model, batch(0, rank))
    engine.step(batch(0, rank).requires_grad_())
    engine.freeze(["layers.0.0"])
    before = [p.detach().clone() for p in model.parameters()]
    text = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of it, once, in the middle of the output
        try:
            engine.step(batch(1, rank))
        except FreezerError as error:
            text = str(error)
    lost = sum(p.grad is None for p in model.layers[1:5].parameters())
    return {"text": text, "lost": lost, "moved": not all(map(torch.equal, before, model.parameters()))}


def scenario_non_reentrant(rank: int, folder: Path) -> dict[str, Any]:
    return mean_over_ranks(stack(reentrant=False), rank, nullcontext)


def scenario_autocast(rank: int, folder: Path) -> dict[str, Any]:
    return mean_over_ranks(stack(), rank, lambda: torch.autocast("cpu", torch.bfloat16))


def mean_over_ranks(model: nn.Module, rank: int, around: Callable[[], AbstractContextManager[Any]]) -> dict[str, Any]:
    """Freeze, freeze more, thaw: gradients must be the mean over both ranks' batches throughout."""
    errors, counts, apart_by = [], [], []
    with tempfile.TemporaryDirectory() as spill:
        engine = Engine(model, batch(0, rank), Path(spill))
        for step in range(8):
            if step in (2, 4, 6):
                engine.freeze({2: ["layers.0.0"], 4: ["layers.0.0", "layers.1.0"], 6: []}[step])
            with around():
                loss = engine.live(batch(step, rank)).square().mean()
            loss.backward()
            mine = [g.clone() for g in gradients(model)]
            apart_by.append(apart(mine))
            engine.optimizer.zero_grad()
            for other in range(2):  # the reference: both batches through the bare model
                with around():
                    loss = model(batch(step, other)).square().mean() / 2
                loss.backward()
            pairs = zip(mine, gradients(model), strict=True)
            errors.append(max((m - g).abs().max().item() / (g.abs().max().item() + 1e-12) for m, g in pairs))
            counts.append(len(mine))
            for p, g in zip([p for p in model.parameters() if p.requires_grad], mine, strict=True):
                p.grad = g
            engine.optimizer.step()
            engine.optimizer.zero_grad()
        engine.applier.close()
    return {
        "error": max(errors),
        "counts": counts,
        "apart": max(apart_by),
        "weights": apart(list(model.parameters())),
    }


def scenario_accumulation(rank: int, folder: Path) -> dict[str, Any]:
    model = stack()
    engine = Engine(model, batch(0, rank))
    rows = []
    for step in range(6):
        if step in (0, 2, 4):
            engine.freeze({0: [], 2: ["layers.0.0", "layers.1.0"], 4: []}[step])
            seen = Buckets(engine.live)
        model.train()
        with engine.live.no_sync():
            for part in range(2):
                engine.backward(batch(3 * step + part, rank))
        local = apart(gradients(model))
        engine.backward(batch(3 * step + 2, rank))
        reduced, syncs = engine.parallel.reduced()
        assert (reduced, syncs) == (seen.bytes, seen.syncs), (reduced, syncs, seen.bytes, seen.syncs)
        seen.bytes = seen.syncs = 0
        active = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
        rows.append([local > 0, apart(gradients(model)), reduced == active, syncs])
        engine.optimizer.step()
        engine.optimizer.zero_grad()
    return {"rows": rows, "weights": apart(list(model.parameters()))}


def scenario_adapters(rank: int, folder: Path) -> dict[str, Any]:
    """The user froze the base: below the lowest active adapter nothing is stored for a backward pass."""
    torch.manual_seed(0)
    model = Adapted()
    engine = Engine(model, batch(0, rank))
    lowest, stored, by_hand, touched = [], [], [], []
    for frozen, first in (([], 2), (["down.2", "up.2"], 3), (["down.2", "up.2", "down.3", "up.3"], 4), ([], 2)):
        engine.freeze(frozen)
        grew: list[int] = []
        hooks = [layer.register_forward_hook(noting(grew, i)) for i, layer in enumerate(model.base)]
        stored.append(saved(lambda: engine.live(batch(1, rank))))
        for hook in hooks:
            hook.remove()
        engine.live(batch(1, rank)).square().mean().backward()
        touched.append([p.grad is not None for p in model.base.parameters()].count(True))
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        lowest.append(min(grew, default=6))  # base i's output needs a gradient only if its *input* does
        with torch.no_grad():
            x = batch(1, rank)
            for i in range(first):
                adapted = model.up[str(i)](model.down[str(i)](x)) if str(i) in model.up else 0
                x = torch.tanh(model.base[i](x) + adapted)
        by_hand.append(saved(lambda x=x, first=first: model(x, first)))
    return {
        "lowest": lowest,
        "stored": stored,
        "by_hand": by_hand,
        "touched": touched,
        "weights": apart(list(model.parameters())),
    }


def noting(grew: list[int], index: int) -> Any:
    """A forward hook that notes the layers whose output needs a gradient."""

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            grew.append(index)

    return note


def saved(forward: Callable[[], Tensor]) -> int:
    """Bytes that a pass stores for its backward pass; weights are there anyhow and not counted."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if not isinstance(t, nn.Parameter) and not isinstance(t._base, nn.Parameter):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()
    size = sum(sizes.values())
    del out
    return size


SCENARIOS = {name.removeprefix("scenario_"): f for name, f in list(globals().items()) if name.startswith("scenario_")}


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    store = dist.FileStore(str(folder / "rendezvous"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(minutes=5))
    for name in sys.argv[4:] or list(SCENARIOS):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{rank}.json").write_text(json.dumps(SCENARIOS[name](rank, folder / name)))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
