"""Training runs that die anywhere: ``python -m tests.distributed.kills RANK WORLD FOLDER JOB.json``.

The job names policies. For each of them one run goes through undisturbed and notes the *moments* at which it could have
died: after a pass, between agreement and application of a plan, in the middle of an event, after a step, before a
checkpoint is in its place, when the forward cache changes its state. Then the run is made again and dies at chosen
moments, one after another, each time resuming from the newest checkpoint as a new process does. Dying is an exception
that drops every object, or (``"kill": true``) SIGKILL; then whoever started the process starts it again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from freezer.config import FreezeConfig
from freezer.events import FreezeEvent
from freezer.freezer import Freezer
from freezer.parallel import DDP, Single
from freezer.predictor.model import save_predictor
from freezer.predictor.networks import PaperPredictor
from tests.support.equality import same
from tests.unit.freezer.toys import ResNet

SAMPLES, BATCH, EVERY = 16, 4, 3
STEPS = {"smartfrz-paper": 46}  # its window is 30 snapshots
SHORT = 24
OPTIONS: dict[str, dict[str, Any]] = {
    "static": {"first": 2},
    "linear": {"start": 0.1, "level": 0.6},
    "freezeout": {"t0": 0.3, "how": "linear"},
    "egeria": {"window": 2, "patience": 1, "tolerance": 1e6},
    "random": {"share": 0.5},
}
Moment = list[Any]  # [what, step], JSON


class Died(BaseException):
    """Stands for the end of a process; nothing may catch it."""


class Deaths:
    """Notes the moments of a run, and dies at the first that is planned."""

    def __init__(self, planned: list[Moment], on_death: Callable[[Moment], None]) -> None:
        self.planned = planned
        self.on_death = on_death
        self.seen: list[Moment] = []
        self.step = 0

    def at(self, what: str) -> None:
        moment = [what, self.step]
        self.seen.append(moment)
        if moment in self.planned:
            self.on_death(moment)
            raise Died(moment)


class _Interrupted:
    """Tells of the moment at which all ranks hold a plan that none has applied."""

    deaths: Deaths

    def agree(self, message: Any, what: str, value: Any) -> dict[str, Any]:
        agreed: dict[str, Any] = super().agree(message, what, value)  # type: ignore[misc]
        self.deaths.at("agreed")
        return agreed

    def same(self, what: str, value: Any) -> None:
        super().same(what, value)  # type: ignore[misc]
        if what.startswith("what was ordered"):
            self.deaths.at("agreed")


class InterruptedSingle(_Interrupted, Single):
    """One process that may die between agreement and application."""


class InterruptedDDP(_Interrupted, DDP):
    """Ranks that may die between agreement and application."""


class Run:
    """One process's share of a training run: it begins anew, or from the checkpoint in ``folder``."""

    def __init__(self, policy: str, folder: Path, rank: int, world: int, deaths: Deaths) -> None:
        self.rank, self.world, self.folder, self.deaths = rank, world, folder, deaths
        self.steps = STEPS.get(policy, SHORT)
        torch.manual_seed(rank)
        self.model = ResNet()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2, weight_decay=0.1)
        parallel = InterruptedSingle() if world == 1 else InterruptedDDP()
        parallel.deaths = deaths
        (folder / f"spill{rank}").mkdir(parents=True, exist_ok=True)
        self.freezer = Freezer(
            self.model,
            self.optimizer,
            config_of(policy, folder.parent),
            total_steps=self.steps,
            parallel=parallel,
            on_event=self.happened,
            directory=folder / f"spill{rank}",
            samples=SAMPLES // world,
        )
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(SAMPLES, 3, 9, 9, generator=generator)
        self.labels = torch.randint(3, (SAMPLES,), generator=generator)
        self.cache_state = self.freezer.cache.state
        if (folder / "checkpoint.pt").exists():
            self.load()

    def happened(self, event: FreezeEvent) -> None:
        self.deaths.at("thawed" if event.thawed else "frozen")

    def go(self) -> None:
        while self.freezer.steps < self.steps:
            self.deaths.step = step = self.freezer.steps
            self.optimizer.param_groups[0]["lr"] = 1e-2 if step < 2 * self.steps // 3 else 5e-4
            self.train(step)
            self.deaths.at("passed")
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.freezer.step()
            self.deaths.at("stepped")
            self.order(step)
            if self.freezer.steps % EVERY == 0:
                self.save()
            if self.freezer.cache.state != self.cache_state:
                self.cache_state = self.freezer.cache.state
                self.deaths.at(f"cache {self.cache_state}")

    def train(self, step: int) -> None:
        """Rows of this rank only, in an order that epoch and rank decide; dropout draws from the running state."""
        share = SAMPLES // self.world
        epoch, batch = divmod(step, share // BATCH)
        generator = torch.Generator().manual_seed(100 + epoch)
        order = torch.randperm(share, generator=generator) * self.world + self.rank
        ids = order[batch * BATCH : (batch + 1) * BATCH]
        self.freezer.model.train()
        with self.freezer.batch(ids):
            out = self.freezer.model(self.images[ids])
        F.cross_entropy(out, self.labels[ids]).backward()  # type: ignore[no-untyped-call]

    def order(self, step: int) -> None:
        """Whatever the policy does: a freeze and two thaws from outside."""
        if step == 5:  # a thaw empties windows: far from the input where a policy needs long ones
            self.freezer.freeze(["layer2.1" if self.steps > SHORT else "layer1.0"])
        if step == 11 and self.freezer.plan.frozen:
            self.freezer.thaw(self.freezer.plan.frozen[-1:])
        if step == self.steps - 6 and self.freezer.plan.frozen:
            self.freezer.thaw()

    def save(self) -> None:
        self.freezer.rewrap()
        random: list[Any] = [torch.get_rng_state()]
        if self.world > 1:
            random = [None] * self.world
            dist.all_gather_object(random, torch.get_rng_state())
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "freezer": self.freezer}
        state = {**{name: part.state_dict() for name, part in parts.items()}, "random": random}
        scratch, target = self.folder / "checkpoint.tmp", self.folder / "checkpoint.pt"
        if self.rank == 0:
            torch.save(state, scratch)
        self.deaths.at("saving")
        if self.rank == 0:
            os.replace(scratch, target)
        if self.world > 1:
            dist.barrier()

    def load(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.freezer.load_state_dict(state["freezer"])
        torch.set_rng_state(state["random"][self.rank])

    def end(self) -> dict[str, Any]:
        """All that must be the same; buffers that the ranks do not share are rank 0's."""
        state = self.freezer.state_dict()
        kept = ["step", "plan", "planner", "history", "pinned", "rate_watch", "score_watch"]
        kept += ["decisions", "windows"] if self.rank == 0 else []  # nobody decides elsewhere
        weights = self.model.state_dict() if self.rank == 0 else dict(self.model.named_parameters())
        return {
            "weights": {name: value.detach().clone() for name, value in weights.items()},
            "optimizer": self.optimizer.state_dict(),
            **{name: state[name] for name in kept},
        }


def config_of(policy: str, folder: Path) -> FreezeConfig:
    """Settings under which each policy freezes something in a short run."""
    options = dict(OPTIONS.get(policy, {}))
    paper = policy == "smartfrz-paper"
    if paper:
        options["weights"] = str(folder / "paper.safetensors")
    return FreezeConfig(
        policy=policy,
        window=30 if paper else 3,
        samples=1024 if paper else 32,
        snapshot_every=1,
        decide_every=2,
        decision_delay=1,
        patience=1,
        threshold=0.01,
        options=options,
    )


def chosen(seen: list[Moment], alone: bool, apart: bool) -> list[Moment]:
    """Moments around the first freeze, the first thaw and each change of the cache; in order. Ranks are slow to
    start anew: together they skip the moments before and after an event, unless asked for each ``apart``."""
    around = ("agreed", "passed", "stepped") if alone or apart else ("agreed",)
    wanted: list[Moment] = []
    for kind in ("frozen", "thawed"):
        event = next((m for m in seen if m[0] == kind and m[1] > 0), None)
        if event is not None:
            step = event[1]
            wanted += [m for m in seen if m[1] == step and m[0] in (kind, *around)]
    wanted += [next(m for m in seen if m[0] == "saving" and m[1] > 8)]
    if alone:  # each rank's cache decides for itself
        wanted += [m for m in seen if m[0].startswith("cache")]
    return [m for i, m in enumerate(seen) if m in wanted and m not in seen[:i]]


def run(policy: str, folder: Path, rank: int, world: int, planned: list[Moment], die: bool) -> tuple[Any, Any]:
    """Its end, and the moments it went through. Dies at each planned moment once."""
    folder.mkdir(parents=True, exist_ok=True)
    graves = folder / f"deaths{rank}.json"
    while True:
        past = json.loads(graves.read_text()) if graves.exists() else []
        left = [m for m in planned if m not in past]

        def bury(moment: Moment, past: list[Moment] = past) -> None:
            graves.write_text(json.dumps([*past, moment]))
            if die:
                os.kill(os.getpid(), signal.SIGKILL)

        deaths = Deaths(left, bury)
        here = Run(policy, folder, rank, world, deaths)
        try:
            here.go()
            return here.end(), deaths.seen
        except Died:
            continue
        finally:
            with suppress(Died):
                here.freezer.close()


def examine(policy: str, folder: Path, rank: int, world: int, apart: bool) -> dict[str, Any]:
    """Compare the undisturbed run with one that dies at all chosen moments, or (``apart``) one run for each."""
    straight, seen = run(policy, folder / "straight", rank, world, [], False)
    box = [chosen(seen, world == 1, apart)]
    if world > 1:
        dist.broadcast_object_list(box, src=0)
    moments = box[0]
    differ, died = [], 0
    for number, planned in enumerate([[m] for m in moments] if apart else [moments]):
        end, _ = run(policy, folder / f"dying{number}", rank, world, planned, False)
        died += len(json.loads((folder / f"dying{number}" / f"deaths{rank}.json").read_text()))
        differ += [f"{part} after {planned}" for part in straight if not same(straight[part], end[part])]
    return {"differ": differ, "moments": moments, "died": died, "history": straight["history"]}


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    job = json.loads(Path(sys.argv[4]).read_text())
    torch.set_num_threads(1)
    if world > 1:
        store = dist.FileStore(job["rendezvous"], world)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(minutes=5))
    if rank == 0:
        torch.manual_seed(0)
        for policy in job["policies"]:
            (folder / policy).mkdir(exist_ok=True)
            save_predictor(PaperPredictor({}), folder / policy / "paper.safetensors")
    if world > 1:
        dist.barrier()
    for policy in job["policies"]:
        if job.get("kill"):  # SIGKILL: this process sees a part of the run, and its heirs the rest
            end, _ = run(policy, folder / policy / "killed", rank, world, job["moments"], True)
            straight, _ = run(policy, folder / policy / "straight", rank, world, [], False)
            differ = [part for part in straight if not same(straight[part], end[part])]
            (folder / policy / f"{rank}.json").write_text(json.dumps({"differ": differ}))
            continue
        result = examine(policy, folder / policy, rank, world, bool(job.get("apart")))
        (folder / policy / f"{rank}.json").write_text(json.dumps(result))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
