"""Applying plans: what frozen means, for weights, optimizer, modes; and the way back."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from freezer.apply import Applier
from freezer.errors import UnitError, VerificationError
from freezer.units import discover
from tests.unit.freezer.toys import ResNet, Transformer, images, tokens

BLOCK0 = [f"blocks.0.{part}" for part in ("q", "k", "v", "proj", "up", "down")]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor, steps: int = 5) -> None:
    for _ in range(steps):
        model.train()
        optimizer.zero_grad(set_to_none=False)  # the harder case: gradients of zero would still move weights
        model(batch).square().mean().backward()
        optimizer.step()


def prepared(model: nn.Module, batch: torch.Tensor, kind: Any = torch.optim.AdamW, **options: Any):  # type: ignore[no-untyped-def]
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    return optimizer, Applier(model, discover(model, (batch,), {}, "layer"), optimizer)


@pytest.mark.parametrize(("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})])
def test_frozen_weights_do_not_move_by_momentum_or_decay(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, batch = ResNet(), images()
    optimizer, applier = prepared(model, batch, kind, **options)
    train(model, optimizer, batch)
    applier.apply(["conv"])
    frozen = copy.deepcopy(model.state_dict())
    train(model, optimizer, batch)
    now = model.state_dict()
    for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        assert torch.equal(now[name], frozen[name]), name
    assert not torch.equal(now["fc.weight"], frozen["fc.weight"])


def test_a_gradient_of_zero_would_have_moved_them() -> None:
    """The reason for ``grad = None``: this is what happens otherwise."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert not torch.equal(weight, before)


def test_the_optimizer_keeps_every_parameter_and_its_moments() -> None:
    model, batch = ResNet(), images()
    optimizer, applier = prepared(model, batch)
    train(model, optimizer, batch, 2)
    before = copy.deepcopy(optimizer.state_dict())
    applier.apply(["conv", "layer1.0.conv1"])
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    first = before["state"][2]["exp_avg"]
    assert torch.equal(after["state"][2]["exp_avg"], first)
    fresh = torch.optim.AdamW(ResNet().parameters())
    fresh.load_state_dict(after)
    assert len(fresh.state) == len(list(model.parameters())), "loading loses nothing"


def test_no_later_train_call_wakes_frozen_norms_and_dropouts() -> None:
    model, batch = ResNet(), images()
    _, applier = prepared(model, batch)
    applier.apply(["conv"])
    model.train()
    seen = {}
    for name in ("bn", "drop", "layer1.0.bn1"):
        model.get_submodule(name).register_forward_hook(lambda m, *_, n=name: seen.update({n: m.training}))
    model(batch)
    assert seen == {"bn": False, "drop": False, "layer1.0.bn1": True}


def test_a_norm_of_weights_that_iterates_before_each_pass_stands_still_in_a_frozen_layer() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older form: a hook of the module, not a parametrization
        model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 2))
    batch = torch.randn(5, 6)
    optimizer, applier = prepared(model, batch)
    train(model, optimizer, batch)
    applier.apply(["0"])
    before, output = copy.deepcopy(model[0].state_dict()), model[0](batch).detach()
    train(model, optimizer, batch)
    assert all(torch.equal(value, before[name]) for name, value in model[0].state_dict().items())
    assert torch.equal(model[0](batch), output)
    applier.apply([])
    train(model, optimizer, batch)
    assert not torch.equal(model[0].weight_u, before["weight_u"])


def test_functional_dropout_sleeps_once_all_units_of_its_container_are_frozen() -> None:
    model, batch = Transformer().train(), tokens()
    _, applier = prepared(model, batch)
    out: list[torch.Tensor] = []
    model.blocks[0].register_forward_hook(lambda *called: out.append(called[2].detach()))
    for frozen, same in ((["embed", *BLOCK0[:-1]], False), (["embed", *BLOCK0], True)):
        applier.apply(frozen)
        out.clear()
        for _ in range(2):
            model.train()
            model(batch)
        assert torch.equal(out[0], out[1]) is same


def test_an_encoder_with_padding_trains_on_behind_its_first_layer() -> None:
    """Torch's encoder takes a first layer that neither trains nor needs gradients for an evaluation of all layers."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 8)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(self.embed(x), src_key_padding_mask=x == 0)[:, 0])

    batch = torch.randint(1, 12, (4, 6))
    batch[:2, 4:] = 0
    model = Encoder()
    optimizer, applier = prepared(model, batch)
    units = list(applier.units)
    model.train()
    for count in range(len(units)):
        applier.apply(units[:count])
        before = model.head.weight.detach().clone()
        train(model, optimizer, batch, steps=1)
        model(batch).square().mean().backward()  # without another train(), as most loops have it
        optimizer.step()
        assert not torch.equal(before, model.head.weight)
    assert not any(part.training for part in model.encoder.layers[0].children())


def test_batch_statistics_without_running_ones_leave_nothing_to_drift() -> None:
    """Such a norm uses batch statistics even in eval mode; its weights are fixed all the same."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    batch = torch.randn(8, 4)
    optimizer, applier = prepared(model, batch)
    applier.apply(["0"])
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, batch)
    after = model.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"2.weight", "2.bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_that_bounds_its_rows_does_so_before_it_is_frozen(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    bag = kind is nn.EmbeddingBag
    front = [kind(300, 6, max_norm=0.7)] if bag else [kind(300, 6, max_norm=0.7), nn.Flatten()]
    model = nn.Sequential(*front, nn.Linear(6 if bag else 18, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    optimizer, applier = prepared(model, torch.randint(300, (5, 3)))
    train(model, optimizer, torch.randint(300, (5, 3)))
    unread = model[0].weight.detach().clone()
    applier.apply(["0"])
    assert not torch.equal(model[0].weight, unread)
    before = model[0].weight.detach().clone()
    train(model, optimizer, torch.arange(300).reshape(100, 3))
    assert torch.equal(model[0].weight, before)
    applier.apply([])
    train(model, optimizer, torch.randint(300, (5, 3)))
    assert not torch.equal(model[0].weight, before)


class Graph(nn.Module):
    """A graph's convolution, whose adjacency is a sparse buffer."""

    def __init__(self, adjacency: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(self.adjacency, x @ self.weight)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse C.. tensor support is in beta state")
def test_layers_with_sparse_buffers_freeze_and_their_buffers_are_watched(layout: torch.layout) -> None:
    torch.manual_seed(0)
    adjacency = (torch.rand(6, 6) > 0.5).float().to_sparse(layout=layout)
    model = nn.Sequential(Graph(adjacency), nn.ReLU(), nn.Linear(4, 2))
    optimizer, applier = prepared(model, torch.randn(6, 4))
    applier.apply(["0"])
    train(model, optimizer, torch.randn(6, 4))
    applier.apply([])
    applier.apply(["0"])
    model[0].adjacency.values().mul_(2.0) if layout != torch.sparse_coo else model[0].adjacency.mul_(2.0)
    with pytest.raises(VerificationError, match=r"0\.adjacency of frozen unit '0' moved"):
        applier.verify_still()


def test_tied_weights_freeze_together() -> None:
    model, batch = Transformer(tied=True), tokens()
    optimizer, applier = prepared(model, batch)
    train(model, optimizer, batch, 2)
    applier.apply(["embed"])
    before = model.head.weight.detach().clone()
    train(model, optimizer, batch)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.embed.weight, before)


def test_thawing_brings_everything_back() -> None:
    torch.manual_seed(0)
    model, batch = ResNet(), images()
    optimizer, applier = prepared(model, batch)
    applier.apply(["conv", "layer1.0.conv1"])
    train(model, optimizer, batch)
    applier.apply([])
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, batch)
    assert not any(m._forward_pre_hooks for m in model.modules())
    after = model.state_dict()
    still = [n for n in after if "num_batches" not in n and torch.equal(after[n], before[n])]
    assert not still, "every weight and statistic moves again"


@pytest.mark.parametrize("again", [False, True])
def test_a_norm_that_the_user_holds_in_eval_mode_is_not_woken_by_a_thaw(again: bool) -> None:
    """``again``: the user calls ``train()`` and then the norms' ``eval()`` before every pass, else once."""
    model, batch = ResNet(), images()
    _, applier = prepared(model, batch)

    def hold() -> None:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    hold()
    for frozen in (["conv"], []):
        applier.apply(frozen)
        if again:
            hold()
        model(batch)
    assert not model.bn.training
    assert not model.bn.num_batches_tracked
    assert model.drop.training, "nobody holds that one"


def test_modules_frozen_during_an_evaluation_wake_up_in_training() -> None:
    model, batch = ResNet(), images()
    _, applier = prepared(model, batch)
    model.eval()
    applier.apply(["conv"])
    model.train()
    applier.apply([])
    assert all(module.training for module in model.modules())


def test_what_the_user_froze_stays_so_after_a_thaw() -> None:
    model, batch = ResNet(), images()
    model.layer1.requires_grad_(False)
    _, applier = prepared(model, batch)
    applier.apply(["conv"])
    applier.apply([])
    assert not any(p.requires_grad for p in model.layer1.parameters())


def test_unknown_unit_changes_nothing() -> None:
    model, batch = ResNet(), images()
    _, applier = prepared(model, batch)
    with pytest.raises(UnitError, match="nonsense"):
        applier.apply(["conv", "nonsense"])
    assert model.conv.weight.requires_grad


class TestVerification:
    def test_a_frozen_unit_that_moved_is_noticed_at_the_next_event(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        applier.apply(["conv"])
        with torch.no_grad():
            model.conv.weight[0, 0, 0, 0] += 1e-3
        with pytest.raises(VerificationError, match="'conv' moved"):
            applier.apply(["conv", "layer1.0.conv1"])

    def test_a_lost_parameter_is_named(self) -> None:
        model, batch = ResNet(), images()
        optimizer, applier = prepared(model, batch)
        optimizer.param_groups[0]["params"] = [p for p in model.parameters() if p is not model.conv.weight]
        with pytest.raises(VerificationError, match=r"no longer holds conv\.weight"):
            applier.apply(["conv"])

    def test_a_parameter_against_the_plan_is_named(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        applier.apply(["conv"])
        model.conv.weight.requires_grad_(True)
        with pytest.raises(VerificationError, match=r"conv.weight is active, against the plan"):
            applier.verify()

    def test_a_left_over_gradient_is_named(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        applier.apply(["conv"])
        model.conv.weight.grad = torch.zeros_like(model.conv.weight)
        with pytest.raises(VerificationError, match=r"conv.weight.*still holds a gradient"):
            applier.verify()

    def test_weights_changed_by_the_event_are_named(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        before = applier.checksums()
        with torch.no_grad():
            model.fc.bias[0] = torch.nextafter(model.fc.bias[0], torch.tensor(9.0))
        with pytest.raises(VerificationError, match=r"fc\.bias"):
            applier.verify(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_checksums_of_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 4).to(dtype)
    applier = Applier(model, [], torch.optim.SGD(model.parameters(), 0.1))
    before = applier.checksums()
    assert applier.checksums() == before
    with torch.no_grad():
        model.weight[1, 1] *= -1
    changed = {name for name, total in applier.checksums().items() if total != before[name]}
    assert changed == {"weight"}


class TestStillBuffers:
    def test_they_are_those_of_modules_whose_units_are_all_frozen(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        assert applier.still_buffers == []
        applier.apply(["conv", "layer1.0.conv1"])
        names = ("running_mean", "running_var", "num_batches_tracked")
        assert set(applier.still_buffers) == {f"{bn}.{n}" for bn in ("bn", "layer1.0.bn1") for n in names}
        applier.apply(["conv"])
        assert set(applier.still_buffers) == {f"bn.{n}" for n in names}

    def test_one_that_moves_all_the_same_is_named(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        applier.apply(["conv"])
        model.bn.running_mean += 1
        with pytest.raises(VerificationError, match=r"bn\.running_mean of frozen unit 'conv' moved in eval mode"):
            applier.apply([])

    def test_a_table_that_grew_is_no_state(self) -> None:
        model, batch = ResNet(), images()
        _, applier = prepared(model, batch)
        applier.apply(["conv"])
        model.bn.running_mean = torch.zeros(4)
        applier.apply([])
