"""What sleeps while it is frozen, what must stay awake, and what wakes up again."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freezer.apply import Applier
from freezer.forms import differing, noted_forms
from freezer.freezer import Freezer
from freezer.modes import Modes
from freezer.units import discover
from tests.unit.freezer.toys import ResNet, images, settings


class Backbone(nn.Module):
    """Deep supervision: an auxiliary output in training alone, by layers of its own or by those that always run."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.second = nn.Linear(8, 8)
        self.aux = nn.Linear(8, 4) if own else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.drop(F.relu(self.norm(self.first(x))))
        x = self.second(h)
        if not self.training:
            return x
        return x, h if self.aux is None else self.aux(h)


class Around(nn.Module):
    """Reads what the backbone gives, and keeps the auxiliary output where the training loop finds it."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.backbone, self.neck = Backbone(own), nn.Linear(8, 8)
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.relu(self.neck(self.backbone(x)))
        x, aux = self.backbone(x)
        self.losses.append(aux.square().mean())
        return F.relu(self.neck(x))


class Supervised(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.body, self.mid, self.head = Around(own), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.body(x)))


@pytest.mark.parametrize("own", [True, False])
def test_a_frozen_part_that_gives_more_in_training_goes_on_giving_it(own: bool) -> None:
    torch.manual_seed(0)
    model = Supervised(own)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    freezer = Freezer(model, optimizer, settings(policy="none", cache="off"), total_steps=40)

    def step() -> Tensor:
        freezer.model.train()
        loss = freezer.model(torch.randn(8, 8)).square().mean() + sum(model.body.losses)
        assert len(model.body.losses) == 1
        model.body.losses.clear()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        return loss

    step()
    freezer.freeze(["body.backbone.first", "body.backbone.second", "body.neck"])
    frozen = copy.deepcopy(model.body.state_dict())
    for _ in range(2):
        step()
    moved = {name for name, value in model.body.state_dict().items() if not torch.equal(value, frozen[name])}
    assert moved == ({"backbone.aux.weight", "backbone.aux.bias"} if own else set())
    assert not model.body.backbone.norm.training, "norms and dropouts sleep all the same"
    assert not model.body.backbone.drop.training
    freezer.thaw()
    step()
    assert all(module.training for module in model.modules())
    freezer.close()


class Router(nn.Module):
    """A layer of the user's own, without children, which leaves a loss on itself in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.loss: Tensor | None = None
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        if self.training:
            self.loss = y.square().mean()
            self.passes += 1
        return y


class Noisy(nn.Module):
    """As :class:`Router`, but all that training adds is noise: it must sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return F.dropout(x @ self.weight, 0.5, self.training)


def test_a_layer_that_leaves_a_loss_on_itself_stays_awake_and_one_that_only_drops_sleeps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Router(), Noisy(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    freezer = Freezer(model, optimizer, settings(policy="none", cache="off"), total_steps=40)
    for step in range(4):
        (freezer.model(torch.randn(8, 8)).square().mean() + model[0].loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        if step == 1:
            freezer.freeze(["0", "1"])
    assert model[0].training
    assert not model[1].training
    freezer.close()


def test_forms_are_compared_and_values_are_not() -> None:
    model = nn.ModuleList([Supervised(True), Noisy(), ResNet()]).train()
    with noted_forms(model[0]) as training:
        model[0](torch.randn(4, 8))
    with noted_forms(model[0].eval()) as evaluation:
        model[0](torch.randn(4, 8))
    assert differing(training, evaluation) == ["body", "body.backbone"]
    for part, batch in ((model[1], torch.randn(4, 8)), (model[2], images())):
        found = []
        for mode in (True, False):
            with noted_forms(part.train(mode)) as forms:
                part(batch)
            found.append(forms)
        assert differing(*found) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_container_sleeps_only_when_layers_that_did_not_run_are_frozen_too() -> None:
    """Such a layer is never frozen, so the container around it goes on as in training."""
    model = nn.Sequential(Backbone(True), nn.Linear(8, 3))
    units = discover(model, (torch.randn(4, 8),), {}, "layer")
    owners = Modes(model, dict(model.named_modules()), units).owners
    assert owners["0"] == {"0.first", "0.second", "0.aux"}
    assert owners["0.norm"] == {"0.first"}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("passes", [0, 2])
def test_of_modules_frozen_during_an_evaluation_those_that_the_user_holds_do_not_wake(held: bool, passes: int) -> None:
    model, batch = ResNet(), images()
    applier = Applier(model, discover(model, (batch,), {}, "layer"), torch.optim.SGD(model.parameters(), 0.1))
    model.eval()
    applier.apply(["conv"])
    with torch.no_grad():
        model(batch)
    model.train()
    if held:
        model.bn.eval()
    for _ in range(passes):
        model(batch)
    applier.apply([])
    assert model.bn.training is not held
    assert model.drop.training
    assert not any(m._forward_pre_hooks for m in (model.bn, model.drop))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Linear(4, 6), kind(6, 6, num_layers=3, dropout=0.5, **options)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_frozen_recurrent_layer_stays_in_training_mode_without_its_dropout(kind: type[nn.RNNBase]) -> None:
    """cuDNN refuses its backward pass in eval mode, which is needed where something before it is trained."""
    torch.manual_seed(0)
    model, batch = Recurrent(kind).eval(), torch.randn(5, 3, 4)
    applier = Applier(model, discover(model, (batch,), {}, "layer"), torch.optim.SGD(model.parameters(), 0.1))
    quiet, before = model(batch).detach(), copy.deepcopy(model.state_dict())
    model.train()
    assert not torch.equal(model(batch), quiet)
    applier.apply(["rnn"])
    seen: list[bool] = []
    probe = model.rnn.register_forward_hook(lambda module, *_: seen.append(module.training))
    output = model.train()(batch)
    assert torch.equal(output, quiet)
    probe.remove()
    assert seen == [True]
    output.sum().backward()
    assert model.embed.weight.grad is not None
    assert model.rnn.weight_hh_l0.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):  # nobody's to freeze
        assert type(other.rnn.dropout) is float
        assert not torch.equal(other(batch), quiet)
    model.rnn.dropout = 0.4  # as a schedule of the user's may
    assert torch.equal(model(batch), quiet)
    applier.apply([])
    assert (model.rnn.dropout, type(model.rnn.dropout)) == (0.4, float)
    assert not torch.equal(model(batch), quiet)
    applier.close()  # the gradient guard waits for a step
    assert not model.rnn._forward_pre_hooks


def test_a_frozen_recurrent_layer_is_cached_and_gets_its_dropout_back() -> None:
    """A proof leaves its pass in the midst of the layer."""
    weights = []
    for cache in ("off", "auto"):
        torch.manual_seed(0)
        model = Recurrent(nn.GRU, batch_first=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        freezer = Freezer(model, optimizer, settings(policy="none", cache=cache), total_steps=200, samples=32)
        data = torch.randn(32, 20, 4, generator=torch.Generator().manual_seed(0))
        freezer.prepare(data[:8])
        freezer.freeze(["embed", "rnn"])
        for step in range(24):
            ids = torch.arange(8) + 8 * (step % 4)
            with freezer.batch(ids):
                freezer.model(data[ids]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            freezer.step()
        if cache == "auto":
            assert freezer.cache.report()["cut"] == "rnn"
        freezer.thaw()
        assert model.rnn.dropout == 0.5
        weights.append([p.detach().clone() for p in model.parameters()])
        freezer.close()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
