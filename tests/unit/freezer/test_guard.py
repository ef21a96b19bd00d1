"""Gradients that a freeze would silently cut off, and models that change under the freezer."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freezer.apply import Applier
from freezer.errors import UnitError, VerificationError
from freezer.units import discover


class Chain(nn.Module):
    """Four blocks, each checkpointed; ``skip`` names blocks left out, as layer drop does."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant
        self.skip: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            if i in self.skip:
                continue
            if self.reentrant is None or not torch.is_grad_enabled():
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def made(reentrant: bool | None = None) -> tuple[Chain, torch.optim.Optimizer, Applier]:
    torch.manual_seed(0)
    model = Chain(reentrant)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return model, optimizer, Applier(model, discover(model, (torch.randn(3, 4),), {}, "layer"), optimizer)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
            batch = torch.randn(3, 4)
            # reentrant checkpoints need an input that asks for a gradient, which a real model's embedding does
            model(batch.requires_grad_(not any(not p.requires_grad for p in model.parameters()))).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_reentrant_checkpointing_behind_a_frozen_prefix_is_named_before_the_weights_move(steps: int) -> None:
    model, optimizer, applier = made(reentrant=True)
    train(model, optimizer, steps)
    applier.apply(["blocks.0.0"])
    before = model.head.weight.detach().clone()
    with pytest.raises(VerificationError, match=r"'blocks\.1\.0'.*use_reentrant=False"):
        train(model, optimizer)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("reentrant", [False, None])
def test_what_keeps_its_gradients_passes(reentrant: bool | None) -> None:
    model, optimizer, applier = made(reentrant)
    for frozen in (["blocks.0.0"], ["blocks.0.0", "blocks.1.0"], []):
        train(model, optimizer, 2)
        applier.apply(frozen)
    train(model, optimizer)
    assert not any(m._forward_pre_hooks for m in model.modules()), "no hook stays in the forward pass"


def test_a_block_that_the_model_skipped_is_let_off_but_one_that_was_cut_off_is_not() -> None:
    model, optimizer, applier = made()
    train(model, optimizer, 3)
    model.skip = {2}
    applier.apply(["blocks.0.0"])
    train(model, optimizer)
    model.skip = set()
    applier.apply(["blocks.0.0", "blocks.1.0"])
    model.blocks[2].register_forward_hook(lambda *called: called[2].detach())
    with pytest.raises(VerificationError, match=r"'blocks\.2\.0' is trained but got no gradient"):
        train(model, optimizer)


class Heads(nn.Module):
    """Two towers on the same input, each with a head; all that it computes is returned, or what ``only`` says."""

    def __init__(self, towers: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(towers))
        self.heads = nn.ModuleList(nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 2)) for _ in range(2))
        self.only: int | None = None

    def forward(self, x: Tensor) -> list[Tensor]:
        inner = [tower(x) for tower in self.towers]
        outs = [head(inner[i % len(inner)]) for i, head in enumerate(self.heads)]
        return outs if self.only is None else [outs[self.only]]


@pytest.mark.parametrize(("towers", "returned"), [(1, True), (1, False), (2, True)])
def test_an_output_that_the_loss_does_not_use_in_this_step_is_let_off(towers: int, returned: bool) -> None:
    torch.manual_seed(0)
    model = Heads(towers)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    applier = Applier(model, discover(model, (torch.randn(3, 4),), {}, "layer"), optimizer)
    frozen = ["towers.0.0"]
    for step in range(8):
        task = step % 2
        model.only = None if returned else task
        optimizer.zero_grad()
        model(torch.randn(3, 4))[task if returned else 0].sum().backward()
        optimizer.step()
        if step in (2, 5):  # one head is out of the loss in the next step, then the other
            applier.apply(frozen if step == 2 else [])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("on_again", [True, False])
def test_a_block_that_the_user_has_switched_off_in_this_pass_is_let_off(on_again: bool) -> None:
    model, optimizer, applier = made()
    train(model, optimizer, 3)
    applier.apply(["blocks.0.0"])
    model.blocks[1].requires_grad_(False)
    optimizer.zero_grad()
    model(torch.randn(3, 4)).sum().backward()
    model.blocks[1].requires_grad_(on_again)
    optimizer.step()


def test_an_evaluation_before_the_step_is_no_training_pass() -> None:
    model, optimizer, applier = made()
    train(model, optimizer, 3)
    applier.apply(["blocks.0.0"])
    model.eval()
    with torch.no_grad():
        model(torch.randn(3, 4))
    model.skip = {2}
    train(model, optimizer)


def test_a_closed_guard_says_nothing() -> None:
    model, optimizer, applier = made(reentrant=True)
    train(model, optimizer, 2)
    applier.apply(["blocks.0.0"])
    applier.close()
    train(model, optimizer)


def replace_parameter(model: Chain) -> None:
    model.blocks[1][0].weight = nn.Parameter(torch.zeros(4, 4))


def replace_module(model: Chain) -> None:
    model.blocks[1][0] = nn.Linear(4, 4)


def remove(model: Chain) -> None:
    del model.blocks[3]


def remove_parameter(model: Chain) -> None:
    model.blocks[1][0].bias = None


def add(model: Chain) -> None:
    model.blocks[1][0].register_parameter("scale", nn.Parameter(torch.ones(4)))


def reshape(model: Chain) -> None:
    model.head.weight.data = torch.zeros(3, 4)


def convert(model: Chain) -> None:
    model.head.double()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replace_parameter, r"unit 'blocks\.1\.0': parameter blocks\.1\.0\.weight was replaced"),
        (replace_module, r"unit 'blocks\.1\.0': module blocks\.1\.0 was replaced"),
        (remove, r"unit 'blocks\.3\.0': module blocks\.3\.0 was removed"),
        (remove_parameter, r"unit 'blocks\.1\.0': parameter blocks\.1\.0\.bias was removed"),
        (add, r"unit 'blocks\.1\.0': parameter blocks\.1\.0\.scale was added"),
        (reshape, r"unit 'head': parameter head\.weight changed from \[2, 4\]"),
        (convert, r"unit 'head': parameter head\.weight changed from .*float64"),
    ],
)
def test_a_model_that_changed_is_refused_before_anything_is_frozen(change: Callable[[Chain], None], says: str) -> None:
    model, optimizer, applier = made()
    train(model, optimizer)
    applier.refuse_changes()
    change(model)
    with pytest.raises(UnitError, match=says):
        applier.apply(["blocks.0.0"])
    assert model.blocks[0][0].weight.requires_grad
    assert not applier.frozen


def test_a_part_without_weights_may_come_and_go() -> None:
    model, _, applier = made()
    model.watcher = nn.Identity()
    applier.refuse_changes()
