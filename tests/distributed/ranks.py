"""What each rank of the distributed tests runs: ``python -m tests.distributed.ranks RANK WORLD FOLDER``.

All scenarios, one after another in the same processes, because starting them costs more than running them. Each
writes ``FOLDER/<scenario>/<rank>.json``; an error of the library is written as ``{"error": type, "text": ...}``.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from freezer.errors import FreezerError
from freezer.freezer import Freezer
from freezer.parallel import DDP, ParallelStrategy, Single
from freezer.plan import FreezePlan
from tests.unit.freezer.toys import Auxiliary, ResNet, Scripted, Transformer, images, settings, tokens

torch.set_num_threads(1)


def data(step: int, rank: int, kind: str = "image") -> torch.Tensor:
    torch.manual_seed(1000 + 10 * step + rank)
    return images() if kind == "image" else tokens()


def make(
    model: nn.Module,
    script: dict[int, list[str]],
    steps: int,
    parallel: ParallelStrategy | None = None,
    **changes: Any,
) -> tuple[Freezer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    policy = Scripted(script)
    freezer = Freezer(model, optimizer, settings(**changes), total_steps=steps, policy=policy, parallel=parallel)
    return freezer, optimizer


def train(freezer: Freezer, optimizer: Any, steps: range, rank: int, kind: str = "image", micro: int = 1) -> list[int]:
    """Bytes reduced in each step."""
    bytes_of: list[int] = []
    for step in steps:
        before = freezer.costs.bytes_measured
        freezer.model.train()
        for part in range(micro):
            batch = data(step * micro + part, rank, kind)
            if part < micro - 1:
                with freezer.model.no_sync():
                    freezer.model(batch).square().mean().backward()
            else:
                freezer.model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        bytes_of.append(freezer.costs.bytes_measured - before)
    return bytes_of


def active_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def scenario_bytes(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(rank)  # ranks start with different weights: the first wrapping must make them equal
    model = ResNet()
    freezer, optimizer = make(model, {2: ["conv", "layer1.0.conv1"], 4: ["layer1.0.conv2", "layer1.1.conv1"]}, 8)
    whole = active_bytes(model)
    expected, seen = [], []
    for step in range(8):
        expected.append(active_bytes(model))
        seen += train(freezer, optimizer, range(step, step + 1), rank)
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    return {
        "expected": expected,
        "seen": seen,
        "whole": whole,
        "frozen": list(freezer.plan.frozen),
        "report": freezer.report(),
        "windows": list(freezer.windows.units()),
    }


def scenario_same_gradients(rank: int, folder: Path) -> dict[str, Any]:
    """After a freeze and after a thaw the gradients must still be the mean over ranks."""
    torch.manual_seed(0)
    model = ResNet().eval()  # the reference below must see the same function
    freezer, optimizer = make(model, {2: ["conv"]}, 8)
    worst, memories = [], []
    for step in range(8):
        if step == 5:  # thaw by hand: the engine can, though no policy does yet
            freezer.plan = FreezePlan(freezer.plan.seq + 1, step, ())
            freezer._enactor.change(freezer.plan)
        freezer.model(data(step, rank)).square().mean().backward()
        mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        memories.append(len({p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}))
        means = []
        for other in range(2):
            optimizer.zero_grad()
            model(data(step, other)).square().mean().backward()
            means.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        error = max((m - (a + b) / 2).abs().max().item() for m, a, b in zip(mine, *means, strict=True))
        worst.append([error, len(mine)])
        optimizer.zero_grad()
        freezer.step()
    return {"worst": worst, "memories": memories}


def scenario_accumulate(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Transformer(unused=True)
    freezer, optimizer = make(model, {2: ["embed"]}, 6)
    seen = train(freezer, optimizer, range(6), rank, "text", micro=3)
    pool = sum(p.numel() for p in model.pool.parameters()) * 4
    return {"seen": seen, "active": active_bytes(model) - pool, "syncs": freezer.costs.syncs}


def train_alike(freezer: Freezer, optimizer: Any, model: nn.Module, steps: int, rank: int) -> list[str]:
    """Train a model of few numbers, each rank on its own; the parameters in which the ranks differ afterwards."""
    for step in range(steps):
        torch.manual_seed(1000 + 10 * step + rank)
        freezer.model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
    differ = []
    for name, parameter in model.named_parameters():
        theirs = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(theirs, parameter.detach())
        if not all(torch.equal(theirs[0], other) for other in theirs):
            differ.append(name)
    return differ


def scenario_training_only(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Auxiliary()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freezer, optimizer = make(model, {2: ["first"]}, 8)
    differ = train_alike(freezer, optimizer, model, 8, rank)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    bytes_of = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "differ": differ,
        "still": still,
        "frozen": list(freezer.plan.frozen),
        "full": [freezer.report()["allreduce_bytes"]["full_training_estimate"], 8 * bytes_of],
    }


def scenario_late_use(rank: int, folder: Path) -> dict[str, Any]:
    """Surveyed in eval mode, so that nobody knows of what runs in training alone."""
    torch.manual_seed(0)
    model = Auxiliary().eval()
    freezer, optimizer = make(model, {}, 8)
    freezer.prepare(torch.randn(5, 4))
    freezer.model.train()
    train_alike(freezer, optimizer, model, 8, rank)
    return {"steps": freezer.steps}


class Pair(nn.Module):
    """Two encoders, as users write them: one forward for all, and a method for each."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = (nn.Linear(4, 4) for _ in range(3))

    def encode_text(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.text(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.image(x)) * self.encode_text(x)


def scenario_past_ddp(rank: int, folder: Path) -> dict[str, Any]:
    """A method of the model, called through the proxy: DDP knows nothing of it. ``image`` takes no part."""
    torch.manual_seed(0)
    model = Pair()
    freezer, optimizer = make(model, {}, 12)
    freezer.prepare(torch.randn(5, 4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freezer.model.encode_text(torch.randn(5, 4)).square().mean().backward()
    try:
        optimizer.step()
    except FreezerError as error:
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
        return {"error": type(error).__name__, "text": str(error), "moved": moved, "syncs": freezer.parallel.reduced()}
    return {}


def scenario_second_backward(rank: int, folder: Path) -> dict[str, Any]:
    """Two backward passes through one forward pass: DDP reduces the first."""
    torch.manual_seed(0)
    freezer, optimizer = make(Pair(), {}, 12)
    for _ in range(2):
        loss = freezer.model(torch.randn(5, 4)).square().mean()
        loss.backward(retain_graph=True)
        if rank == 1:
            loss.backward()
    try:
        optimizer.step()
    except FreezerError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {}


def scenario_every_way(rank: int, folder: Path) -> dict[str, Any]:
    """All that is synchronised must pass, and be counted once for each synchronisation."""
    torch.manual_seed(0)
    model = Pair()
    freezer, optimizer = make(model, {4: ["image"]}, 12)
    seen = []
    for step in range(10):
        torch.manual_seed(1000 + 10 * step + rank)
        x, y = torch.randn(5, 4), torch.randn(5, 4)
        model.encode_text(x).sum().backward()  # looked at, and thrown away
        optimizer.zero_grad()
        with torch.no_grad():
            freezer.model(x)
        if step % 2:  # two passes, one backward, a method among them
            (
                freezer.model(x).square().mean() + freezer.model(y).mean() + freezer.model.encode_text(y).mean()
            ).backward()
        else:  # what is gathered under no_sync() is reduced with the last
            with freezer.model.no_sync():
                freezer.model(x).square().mean().backward()
                freezer.model.encode_text(x).mean().backward()
            out = freezer.model(y).square().mean()
            with torch.no_grad():
                freezer.model(x)
            out.backward()
        before = freezer.costs.bytes_measured
        optimizer.step()
        if step % 3:
            optimizer.zero_grad()
            model.encode_text(x).sum().backward()
            optimizer.zero_grad()
        freezer.step()
        optimizer.zero_grad()
        seen.append(freezer.costs.bytes_measured - before)
    differ = []
    for name, parameter in model.named_parameters():
        theirs = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(theirs, parameter.detach())
        differ += [] if torch.equal(theirs[0], theirs[1]) else [name]
    return {"differ": differ, "syncs": freezer.costs.syncs, "seen": seen, "frozen": list(freezer.plan.frozen)}


def scenario_subgroups(rank: int, folder: Path) -> dict[str, Any]:
    """Each half of the ranks trains a model of its own, and makes the strategy of its own group alone."""
    world = dist.get_world_size()
    halves = [list(range(world // 2)), list(range(world // 2, world))]
    waits = timedelta(seconds=77)
    groups = [dist.new_group(half, timeout=waits) for half in halves]  # by all ranks, as PyTorch wants it
    mine = int(rank >= world // 2)
    torch.manual_seed(mine)
    parallel = DDP(groups[mine])
    freezer, optimizer = make(ResNet(), {2: ["conv"] if mine else ["conv", "layer1.0.conv1"]}, 6, parallel)
    train(freezer, optimizer, range(4), rank)
    heard = parallel._gather([mine, parallel.rank, list(freezer.plan.frozen)])
    timeout = parallel.control._get_backend(torch.device("cpu")).options._timeout
    return {"mine": mine, "heard": heard, "timeout": timeout.total_seconds()}


def scenario_resume(rank: int, folder: Path) -> dict[str, Any]:
    """Straight with a checkpoint in the middle, against a resume from it between a stage and its effect."""
    last = 30 if dist.get_world_size() == 2 else 18  # more ranks are slow on few cores
    script = {4: ["conv"], 14: ["layer1.0.conv1"], 20: ["layer1.0.conv2", "layer1.1.conv1"]}
    torch.manual_seed(0)
    straight = ResNet()
    freezer, optimizer = make(straight, script, last, decision_delay=3)
    train(freezer, optimizer, range(15), rank)
    freezer.rewrap()
    train(freezer, optimizer, range(15, last), rank)

    torch.manual_seed(0)
    first = ResNet()
    one, optimizer = make(first, script, last, decision_delay=3)
    train(one, optimizer, range(15), rank)
    saved = {"model": first.state_dict(), "optimizer": optimizer.state_dict(), "freezer": one.state_dict()}
    if rank == 0:
        torch.save(saved, folder / "checkpoint.pt")
    dist.barrier()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    second = ResNet()
    two, optimizer = make(second, script, last, decision_delay=3)
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    two.load_state_dict(saved["freezer"])
    train(two, optimizer, range(15, last), rank)
    pairs = zip(straight.state_dict().values(), second.state_dict().values(), strict=True)
    return {
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "plans": [freezer.plan.digest, two.plan.digest],
        "histories": [freezer.history, two.history],
        "windows": rank != 0 or freezer.state_dict()["windows"] == two.state_dict()["windows"],
        "bytes": [freezer.costs.bytes_measured, two.costs.bytes_measured],
    }


def scenario_other_ranks(rank: int, folder: Path) -> dict[str, Any]:
    """Begun by one process, resumed by two, and by one again: between a stage and its effect both times."""
    script = {4: ["conv"], 8: ["layer1.0.conv1"], 12: ["layer1.0.conv2"]}
    torch.manual_seed(0)
    saved: dict[str, Any] = {}
    shares, steps = [], 0
    for parallel, until in ((Single(), 5), (None, 9), (Single(), 16)):
        model = ResNet()
        freezer, optimizer = make(model, script, 16, parallel, decision_delay=2)
        if saved:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            freezer.load_state_dict(saved["freezer"])
        train(freezer, optimizer, range(steps, until), rank if parallel is None else 0)
        box = [{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "freezer": freezer.state_dict()}]
        dist.broadcast_object_list(box, src=0)
        saved, steps = box[0], until
        flops, reduced = freezer.report()["flops"], freezer.report()["allreduce_bytes"]
        shares.append([freezer.steps, flops["full_training"], reduced["full_training_estimate"]])
    return {"frozen": list(freezer.plan.frozen), "shares": shares, "history": freezer.history}


def scenario_unfrozen_by_the_user(rank: int, folder: Path) -> dict[str, Any]:
    """Layers fixed before the freezer saw the model, and trained from some step on: they must be reduced too."""
    torch.manual_seed(0)
    model = Transformer()
    model.embed.requires_grad_(False)
    freezer, optimizer = make(model, {}, 12)
    seen = train(freezer, optimizer, range(3), rank, "text")
    model.embed.requires_grad_(True)
    seen += train(freezer, optimizer, range(3, 6), rank, "text", micro=2)
    theirs = [torch.empty_like(model.embed.weight) for _ in range(dist.get_world_size())]
    dist.all_gather(theirs, model.embed.weight.detach())
    return {
        "equal": all(torch.equal(model.embed.weight, other) for other in theirs),
        "more": seen[-1] - seen[0],
        "embedding": model.embed.weight.nbytes,
    }


def scenario_unfrozen_on_one_rank(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Transformer()
    model.embed.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    freezer, optimizer = make(model, {}, 12)
    train(freezer, optimizer, range(3), rank, "text")
    (model.blocks[0] if rank else model.embed).requires_grad_(True)
    train(freezer, optimizer, range(3, 6), rank, "text")
    return {}


def scenario_disagree_units(rank: int, folder: Path) -> dict[str, Any]:
    """The same *number* of frozen layers on both ranks, but not the same layers: DDP alone would not notice."""
    torch.manual_seed(0)
    freezer, optimizer = make(ResNet(), {4: ["conv"]}, 12)
    train(freezer, optimizer, range(3), rank)
    names = ("layer1.0.conv1",) if rank else ("layer1.0.conv2",)
    freezer.plan = FreezePlan(1, 3, names)
    freezer._enactor.change(freezer.plan)
    train(freezer, optimizer, range(3, 8), rank)
    return {}


def scenario_disagree_steps(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    freezer, _ = make(ResNet(), {4: ["conv"]}, 12)
    freezer.prepare(images())
    freezer._step = 4 if rank else 2  # one rank has lost count
    freezer._conclude(2)
    return {}


def scenario_policy_fails(rank: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    freezer, optimizer = make(ResNet(), {2: ["no such unit"]}, 8)
    train(freezer, optimizer, range(8), rank)
    return {}


def scenario_one_rank_fails(rank: int, folder: Path) -> dict[str, Any]:
    """Something writes a frozen unit's weights on rank 1 alone; the next event finds it there, and nowhere else."""
    torch.manual_seed(0)
    model = ResNet()
    freezer, optimizer = make(model, {2: ["conv"], 6: ["layer1.0.conv1"]}, 12)
    train(freezer, optimizer, range(4), rank)
    if rank == 1:
        with torch.no_grad():
            model.conv.weight.add_(1.0)
    train(freezer, optimizer, range(4, 12), rank)
    return {}


def scenario_stage_fails(rank: int, folder: Path) -> dict[str, Any]:
    """What rank 0 alone notices as a stage begins."""
    torch.manual_seed(0)
    model = ResNet()
    freezer, optimizer = make(model, {2: ["conv"]}, 12)
    train(freezer, optimizer, range(4), rank)
    with torch.no_grad():
        model.conv.weight.add_(1.0)
    train(freezer, optimizer, range(4, 12), rank)
    return {}


SCENARIOS = {name.removeprefix("scenario_"): f for name, f in list(globals().items()) if name.startswith("scenario_")}


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    chosen = sys.argv[4:] or list(SCENARIOS)
    store = dist.FileStore(str(folder / "rendezvous"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(minutes=5))
    for name in chosen:
        scenario = SCENARIOS[name]
        (folder / name).mkdir(exist_ok=True)
        try:
            result = scenario(rank, folder / name)
        except FreezerError as error:  # raised on every rank alike, so that the next scenario can begin together
            result = {"error": type(error).__name__, "text": str(error)}
        (folder / name / f"{rank}.json").write_text(json.dumps(result))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
