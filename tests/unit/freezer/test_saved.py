"""What is stored for the backward pass: the figure for a frozen prefix against a second real measurement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freezer.apply import Applier
from freezer.freezer import Freezer
from freezer.saved import measure_saved
from freezer.units import survey
from tests.unit.freezer.toys import ResNet, Transformer, images, settings, tokens


class Twice(nn.Module):
    """One layer used twice, with a user-frozen one between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.fixed, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.fixed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.again(F.gelu(self.first(x))))
        return self.last(F.gelu(self.again(F.gelu(self.fixed(x)))))


class Multihead(nn.Module):
    """Torch's own attention, whose output projection is never called."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed = nn.Embedding(12, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


MODELS: dict[str, Any] = {
    "resnet": (ResNet, images),
    "transformer": (Transformer, tokens),
    "tied": (lambda: Transformer(tied=True), tokens),
    "twice": (Twice, lambda: torch.randn(4, 8)),
    "multihead": (Multihead, tokens),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, batch = MODELS[name]
    return make().train(), batch()


def apply(model: nn.Module, units: Any, frozen: list[str]) -> None:
    Applier(model, units, torch.optim.SGD(model.parameters(), 0.1)).apply(frozen)


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_prefix_stores_what_was_foretold(name: str) -> None:
    model, batch = build(name)
    units = survey(model, (batch,), {}, "layer").units
    saved = measure_saved(model, units, (batch,))
    assert saved.bytes(()) == saved.total == sum(saved.by_unit().values()) > 0
    names = [unit.name for unit in units if unit.used]
    for count in range(1, len(names)):
        model, batch = build(name)
        apply(model, units, names[:count])
        real = measure_saved(model, units, (batch,)).total
        assert saved.bytes(names[:count]) == real, f"{count}: up to {names[count - 1]}"


def test_one_layer_counts_its_input_once_and_no_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    batch = torch.randn(3, 4)
    saved = measure_saved(model, survey(model, (batch,), {}, "layer").units, (batch,))
    assert saved.total == 3 * 6 * 4  # ReLU's output is the second layer's input; the model's input does not count
    assert saved.by_unit() == {"0": 72}
    assert saved.bytes(["0"]) == 72  # the second layer still needs it


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_behind_an_active_unit_the_figure_is_a_bound_and_says_so(name: str) -> None:
    model, batch = build(name)
    units = survey(model, (batch,), {}, "layer").units
    names = [unit.name for unit in units]
    saved = measure_saved(model, units, (batch,))
    hole = names[2:5]
    assert saved.exact(names[:3])
    assert not saved.exact(hole)
    apply(model, units, hole)
    assert measure_saved(model, units, (batch,)).total <= saved.bytes(hole) <= saved.total


def test_measuring_leaves_everything_as_it_was() -> None:
    model, batch = build("resnet")
    model.layer1.eval()  # type: ignore[union-attr]
    units = survey(model, (batch,), {}, "layer").units
    model(batch).sum().backward()
    modes = [module.training for module in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    random = torch.get_rng_state()
    with torch.no_grad():
        measure_saved(model, units, (batch,))
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))  # type: ignore[arg-type]


def test_training_stores_more_than_evaluation() -> None:
    model, batch = build("transformer")
    units = survey(model, (batch,), {}, "layer").units
    training = measure_saved(model, units, (batch,)).total
    assert measure_saved(model.eval(), units, (batch,)).total < training  # no dropout masks


class Graph(nn.Module):
    """Mixes nodes by a sparse adjacency, which is a buffer or an input."""

    def __init__(self, adjacency: Tensor | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor, adjacency: Tensor | None = None) -> Tensor:
        mixing = self.adjacency if adjacency is None else adjacency
        return torch.sparse.mm(mixing, self.b(torch.sparse.mm(mixing, self.a(x)).relu()))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("as_buffer", [False, True])
def test_sparse_tensors_are_no_obstacle(layout: torch.layout, as_buffer: bool) -> None:
    torch.manual_seed(0)
    adjacency, nodes = torch.eye(6).to_sparse(layout=layout), torch.randn(6, 8)
    model = Graph(adjacency if as_buffer else None)
    inputs = (nodes,) if as_buffer else (nodes, adjacency)
    saved = measure_saved(model, survey(model, inputs, {}, "layer").units, inputs)
    assert saved.total >= 6 * 8 * 4, "the activation in between"

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, settings(policy="none", cache="auto"), total_steps=40)
    for step in range(4):
        with freezer.batch(range(6)):
            freezer.model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        freezer.step()
        if step == 1:
            freezer.freeze(["a"])
    assert "does not run on 2 of its 6 rows" in freezer.cache.reason
    freezer.close()
