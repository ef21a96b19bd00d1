"""The ranks of one job: who am I, on which device, and the small messages between us.

Tensors of training go over the default group (gloo on CPU, nccl on CUDA). Decisions go over a gloo control group beside
it, because nccl carries no CPU tensors.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among its peers. With ``world == 1`` nothing here communicates."""

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """The gloo group for decisions; ``None`` in a world of one."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0: it decides, reports and writes."""
        return self.rank == 0

    def broadcast(self, values: list[int]) -> list[int]:
        """Rank 0's integers, on every rank; ``values`` of the others give only the length."""
        if self.world == 1:
            return values
        message = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(message, src=0, group=self.control)
        return [int(value) for value in message]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's object on every rank (pickled between the ranks of one job, which trust each other)."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's object on rank 0, by rank; ``None`` elsewhere."""
        if self.world == 1:
            return [value]
        box: list[Any] | None = [None] * self.world if self.leads else None
        dist.gather_object(value, box, dst=0, group=self.control)
        return box

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a CPU tensor over the ranks, the same bits everywhere."""
        if self.world > 1:
            dist.all_reduce(values, group=self.control)
            dist.broadcast(values, src=0, group=self.control)
        return values

    def same_buffers(self, model: torch.nn.Module) -> None:
        """Give every rank rank 0's buffers (running statistics), as DDP does before each training forward."""
        if self.world > 1:
            with torch.no_grad():
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0)


def join(device: Literal["cpu", "cuda"], timeout_seconds: float, env: Mapping[str, str] | None = None) -> Ranks:
    """Meet the other ranks, as ``torchrun``'s environment names them; alone when it names none.

    Raises:
        torch.distributed.DistError: the others did not come within the timeout.
    """
    env = os.environ if env is None else env
    rank, world = int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1"))
    place = torch.device("cuda", int(env.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device("cpu")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        return Ranks(rank=0, world=1, device=place)
    timeout = datetime.timedelta(seconds=timeout_seconds)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=world, timeout=timeout)
    return Ranks(rank=rank, world=world, device=place, control=dist.new_group(backend="gloo", timeout=timeout))


def leave(ranks: Ranks) -> None:
    """Close the groups after all work is done."""
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()
