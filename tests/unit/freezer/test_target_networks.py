"""Networks inside the model that are not trained but led: a target that follows the online one by averaging."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from freezer.freezer import Freezer
from tests.unit.freezer.toys import settings


class Byol(nn.Module):
    """The target is a copy that still asks for gradients, run under ``no_grad``, and in no optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.target = copy.deepcopy(self.online)
        self.predict = nn.Linear(8, 8)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        for layer in self.online:
            one = torch.tanh(layer(one))
        with torch.no_grad():
            for layer in self.target:
                other = torch.tanh(layer(other))
        return (self.predict(one) - other).square().mean()

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


def test_a_target_network_is_no_unit_and_moves_on_beside_frozen_ones() -> None:
    torch.manual_seed(0)
    model = Byol()
    optimizer = torch.optim.SGD([*model.online.parameters(), *model.predict.parameters()], 0.05, momentum=0.9)
    freezer = Freezer(model, optimizer, settings(policy="linear"), total_steps=24)
    for _ in range(24):
        freezer.model(torch.randn(4, 8), torch.randn(4, 8)).backward()
        optimizer.step()
        optimizer.zero_grad()
        before = model.target[0].weight.clone()
        model.follow()
        freezer.step()
        assert not torch.equal(model.target[0].weight, before)
    assert [unit.name for unit in freezer.units] == ["online.0", "online.1", "online.2", "predict"]
    assert [unit.index for unit in freezer.units] == [0, 1, 2, 3]
    assert freezer.plan.frozen == ("online.0", "online.1", "online.2")
    price = freezer.report()["price"]
    assert price["full"]["forward"] == 7 * 4 * 2 * 64, "its passes cost all the same"
    assert price["full"]["weight_grad"] == 4 * 4 * 2 * 64
    freezer.close()


def test_layers_of_a_second_optimizer_are_units_as_any_others() -> None:
    """As Muon takes the matrices and AdamW the rest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    one = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], 0.05)
    two = torch.optim.SGD(model[1].parameters(), 0.05)
    freezer = Freezer(model, one, settings(policy="none"), total_steps=10)
    for step in range(6):
        freezer.model(torch.randn(4, 8)).square().mean().backward()
        for optimizer in (two, one):  # the second has used its gradients up when the first one's step looks
            optimizer.step()
            optimizer.zero_grad()
        freezer.step()
        if step == 2:
            freezer.freeze(["0"])
    assert freezer.freeze(["0", "1"]) is not None
    freezer.close()
