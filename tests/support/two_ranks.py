"""Runs in each of two ranks: what ``Ranks`` promises, or (``hang``) what a rank sees whose peer hangs."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.jobs.layout import write_atomic
from workers.training.batch import Batch
from workers.training.evaluate import evaluate
from workers.training.outcome import is_peer_lost, judge
from workers.training.process_group import Ranks, join, leave


class Split:
    """Seven samples, one of them misjudged."""

    def __len__(self) -> int:
        return 7

    def batch(self, indices: torch.Tensor) -> Batch:
        logits = nn.functional.one_hot(indices % 3, 3).float()
        return Batch(logits, torch.where(indices == 4, 0, indices % 3))


def promises(ranks: Ranks) -> dict[str, Any]:
    model = nn.BatchNorm1d(3)
    model.running_mean.fill_(float(ranks.rank + 5))  # type: ignore[union-attr]
    ranks.same_buffers(model)
    score = evaluate(nn.Identity(), Split(), ranks, batch_size=2)
    return {
        "broadcast": ranks.broadcast([ranks.rank + 1, 7]),
        "object": ranks.broadcast_object({"from": ranks.rank}),
        "gather": ranks.gather(f"r{ranks.rank}"),
        "sum": ranks.sum(torch.tensor([1.5, ranks.rank], dtype=torch.float64)).tolist(),
        "mean": float(model.running_mean[0]),  # type: ignore[index]
        "score": [score.accuracy, score.samples],
    }


def hang(ranks: Ranks) -> dict[str, Any]:
    if ranks.rank == 1:
        until(Path(sys.argv[2], "0.json"))  # gone any earlier, it would be a lost peer
        return {}
    try:
        ranks.broadcast([1])
        ranks.sum(torch.ones(1))
    except RuntimeError as error:
        return {"reason": judge(error).reason, "peer_lost": is_peer_lost(error, world=ranks.world), "text": str(error)}
    return {}


def until(*files: Path, seconds: float = 80) -> None:
    """Wait for other ranks' files."""
    deadline = time.monotonic() + seconds
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all there: {files}")
        time.sleep(0.02)


if __name__ == "__main__":
    what, out, timeout = sys.argv[1:]
    Path(out, f"started{os.environ['RANK']}").touch()
    until(*(Path(out, f"started{rank}") for rank in range(2)))  # importing takes as long as it takes, a timeout not
    me = join("cpu", float(timeout))
    answer = {"promises": promises, "hang": hang}[what](me)
    write_atomic(Path(out, f"{me.rank}.json"), json.dumps(answer))
    if what == "promises":
        leave(me)
