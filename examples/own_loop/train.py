"""A training loop of one's own, with layer freezing in three lines (marked 1, 2, 3). No service is involved.

python examples/own_loop/train.py --data .smartfrz/packages/mnist5k/mnist_5k.csv.gz
torchrun --standalone --nproc-per-node 2 examples/own_loop/train.py --data ...   # the same file on two ranks
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from freezer import FreezeConfig, Freezer


def load(path: str) -> tuple[Tensor, Tensor]:
    """Images of 28 x 28 in [0, 1] and labels from rows of 784 pixels and the label."""
    with gzip.open(path, "rt", newline="") as file:
        rows = torch.tensor([[float(value) for value in row] for row in csv.reader(file)])
    return rows[:, :-1].reshape(-1, 1, 28, 28) / 255.0, rows[:, -1].long()


def build() -> nn.Module:
    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*layer(1, 8), *layer(8, 16), *layer(16, 32), nn.Flatten(), nn.Linear(288, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64, help="images a rank takes in one step")
    parser.add_argument("--policy", default="smartfrz")
    options = parser.parse_args()

    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)
    images, labels = load(options.data)
    order = torch.randperm(len(images))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    steps_per_epoch = len(train) // (options.batch * world)
    total_steps = options.epochs * steps_per_epoch

    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    config = FreezeConfig(policy=options.policy, window=min(30, max(2, total_steps // 4)))
    freezer = Freezer(model, optimizer, config, total_steps=total_steps)  # 1

    for epoch in range(options.epochs):
        shuffled = train[torch.randperm(len(train))]  # the same on every rank: each has drawn the same numbers
        model.train()
        for step in range(steps_per_epoch):
            start = (step * world + rank) * options.batch
            batch = shuffled[start : start + options.batch]
            loss = F.cross_entropy(freezer.model(images[batch]), labels[batch])  # 2: in place of model(...)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            event = freezer.step()  # 3
            if event is not None and rank == 0:
                print(f"step {event.step}: froze {', '.join(event.frozen)}")
        model.eval()
        with torch.no_grad():
            accuracy = (freezer.model(images[test]).argmax(1) == labels[test]).float().mean().item()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {accuracy:.3f}")

    report = freezer.report()
    freezer.close()
    if rank == 0:
        flops, sent = report["flops"], report["allreduce_bytes"]
        print(f"frozen: {len(report['frozen_units'])} of {report['units']} units")
        print(f"training FLOPs (estimated): {flops['this_run'] / flops['full_training']:.1%} of full training")
        if sent["full_training_estimate"]:
            print(
                f"all-reduce bytes (measured): {sent['measured'] / sent['full_training_estimate']:.1%} of full training"
            )
        print(f"time spent by the freezer: {report['savings']['measured']['overhead_seconds']:.2f} s")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
