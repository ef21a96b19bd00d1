"""What freezing all but the head would cost at each moment of fine-tuning: ``python -m benchmarks.branches``.

A full run of each fine-tuning workload leaves a branch at every tenth of its steps: there all but the head stays as it
is, and the head goes on by the same schedule on the outputs of then. What the branch loses to the full run at the end
is what a label that follows the loss would say, and no choice of the moment can save more at that loss. Beside it
stands what training could have known by then. Scored on training samples that no run sees: the test split is not used.

Writes benchmarks/results/branches.json after each run; what is there of a workload and seed is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.policies.documents import read
from client.files import write_json
from workers.jobs.spec import JobSpec
from workers.settings import Settings
from workers.training import models
from workers.training.batch import forward
from workers.training.datasets import load
from workers.training.datasets.bundle import Split
from workers.training.machine import machine
from workers.training.optim import lr_factor, make_optimizer, set_lr
from workers.training.run import step_plan

RESULT = Path(__file__).parent / "results" / "branches.json"
COMMAND = "python -m benchmarks.branches"
MOMENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
HELD_OUT = 2000
BATCHES, BATCH = 4, 64
"""Of training samples, drawn anew, whose gradients are held against each other."""
CPU = torch.device("cpu")


def train(spec: JobSpec, seed: int, start: Mapping[str, Tensor] | None = None, *, branch: bool) -> dict[str, Any]:
    """One run with its branches; without them, the weights that another begins with.

    Args:
        start: weights to begin with, all but the head's.
    """
    settings, size = Settings(), int(spec.data.train_size or 0)
    sizes = {"train_size": size + HELD_OUT, "validation_ratio": HELD_OUT / (size + HELD_OUT), "test_size": None}
    data = load(spec.data.model_copy(update=sizes if branch else {}), settings, spec.model)
    torch.manual_seed(seed)
    model = models.build(spec.model, data.task, settings, seed=seed)
    path, head = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    if start is not None:
        model.load_state_dict({k: v for k, v in start.items() if not k.startswith(f"{path}.")}, strict=False)
    optimizer = make_optimizer(model, spec.training.optimizer)
    plan = step_plan(spec.training, samples=len(data.train), world=1)
    total = plan.total_steps(spec.training.epochs, None)
    moments = {round(share * total): share for share in MOMENTS} if branch else {}
    left: list[tuple[int, Any, Any, dict[str, float]]] = []
    assert spec.training.grad_clip is None  # else it would have to be done here too
    losses: list[float] = []
    model.train()
    for step in range(total):
        if step in moments:
            known = {"train_loss": sum(losses[-10:]) / 10, "coherence": coherence(model, head, data.train, seed + step)}
            left.append((step, copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()), known))
        set_lr(optimizer, _rate(spec, step, total))
        inputs, labels = data.train.batch(plan.micro_batches(step, 0)[0])
        losses.append(_step(optimizer, cross_entropy(forward(model, inputs), labels)))
    if not branch:
        return model.state_dict()
    assert data.validation is not None
    full = score(head, *outputs(model, head, data.validation))
    rows = []
    for step, weights, moments_of, known in left:
        model.load_state_dict(weights)
        optimizer = make_optimizer(model, spec.training.optimizer)
        optimizer.load_state_dict(moments_of)
        seen, labels = outputs(model, head, data.train)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is head.weight or parameter is head.bias)
            parameter.grad = None
        for later in range(step, total):
            set_lr(optimizer, _rate(spec, later, total))
            chosen = plan.micro_batches(later, 0)[0]
            _step(optimizer, cross_entropy(head(seen[chosen]), labels[chosen]))
        accuracy, loss = score(head, *outputs(model, head, data.validation))
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        lost = {"accuracy_lost": full[0] - accuracy, "loss_gained": loss - full[1]}
        rows.append({"moment": moments[step], **lost, **known})
    return {"accuracy": full[0], "loss": full[1], "held_out": len(data.validation), "steps": total, "branches": rows}


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def _rate(spec: JobSpec, step: int, total: int) -> float:
    return spec.training.optimizer.lr * lr_factor(spec.training.lr_schedule, step, total)


@torch.no_grad()
def outputs(model: nn.Module, head: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
    """What the head gets of every sample, float (n, features), in evaluation mode; and the labels, int64 (n,)."""
    found: list[Tensor] = []
    labels: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    model.eval()
    for chosen in torch.split(torch.arange(len(split)), 128):
        inputs, of = split.batch(chosen)
        forward(model, inputs)
        labels.append(of)
    model.train()
    hook.remove()
    return torch.cat(found), torch.cat(labels)


@torch.no_grad()
def score(head: nn.Module, seen: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and cross entropy."""
    logits = head(seen)
    return float((logits.argmax(1) == labels).double().mean()), float(cross_entropy(logits, labels))


def coherence(model: nn.Module, head: nn.Module, split: Split, seed: int) -> float:
    """How much of a batch's gradient others share, the head's left out: their mean product over the mean square.

    1 where all pull one way, 0 where each has only its own samples to learn by heart (Fort et al. 2019, "stiffness").
    """
    own = {id(parameter) for parameter in head.parameters()}
    body = [parameter for parameter in model.parameters() if id(parameter) not in own]
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[: BATCHES * BATCH]
    model.eval()  # neither dropout nor running statistics
    found = []
    for chosen in torch.split(drawn, BATCH):
        inputs, labels = split.batch(chosen)
        gradients = torch.autograd.grad(cross_entropy(forward(model, inputs), labels), body, allow_unused=True)
        found.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    model.train()
    stacked = torch.stack(found)
    square = float((stacked * stacked).sum())
    whole = stacked.sum(0)
    shared = (float(whole @ whole) - square) / (BATCHES * (BATCHES - 1))
    return shared / (square / BATCHES)


def workloads() -> dict[str, tuple[JobSpec, JobSpec | None]]:
    """The fine-tuning ones by name, with the job that they start from."""
    document = read()
    found = {}
    for name, kind in document.kinds.items():
        if kind == "fine-tuning":
            given = {key: value for key, value in document.comparison["workloads"][name].items() if key != "seeds"}
            start = given.pop("start", None)
            found[name] = (
                JobSpec.model_validate({"name": name, **given}),
                None if start is None else JobSpec.model_validate({"name": name, **start}),
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=list(workloads()))
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    document: dict[str, Any] = {"command": COMMAND, "runs": {}}
    if RESULT.exists():
        document = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, (spec, first) in workloads().items():
        key = f"{name}--{options.seed}"
        if key in document["runs"] or name not in (options.workload or workloads()):
            continue
        start = None if first is None else train(first, options.seed, branch=False)
        run = train(spec, options.seed, start, branch=True)
        versions = {"torch": torch.__version__}
        document["runs"][key] = {**run, "machine": machine(CPU), "versions": versions}
        write_json(RESULT, document)
        print(f"{key}: {run['accuracy']:.4f} on {run['held_out']} held-out training samples")
        for row in run["branches"]:
            print("  ", *(f"{name} {value:.4f}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
