"""Plain attributes and arguments that kept values depend on: never a value of before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freezer.cache.attributes import Attributes
from tests.unit.freezer.cache.models import CASES, Case, Data, SharedBlock
from tests.unit.freezer.cache.runs import Run, both, same_weights, train

VECTORS = CASES["shared block"].data


class Gained(nn.Module):
    """Uses all kinds of plain attributes before the cut: its own and those of a layer."""

    class Layer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(16, 16)
            self.temperature = 1.0
            self.gains = [1.0, 2.0]
            self.active = {"adapter": 0}
            self.mask = torch.tensor([1.0, 0.0])
            self.config = SimpleNamespace(scale=1.0, sizes=[1, 2])

        def forward(self, x: Tensor) -> Tensor:
            gain = self.gains[self.active["adapter"]] * self.config.scale * self.config.sizes[0]
            return super().forward(x) / self.temperature * gain * (1 + self.mask[0])

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Gained.Layer(), nn.Linear(16, 16), nn.Linear(16, 3)
        self.alpha = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x) * self.alpha))


CASE = Case(Gained, ("a", "b"), VECTORS)


def _forward(model: Any) -> None:
    layer = model.a
    layer.forward = lambda x: Gained.Layer.forward(layer, x) * 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: setattr(m.a, "temperature", 2.0), id="number"),
        pytest.param(lambda m: setattr(m, "alpha", 0.5), id="of a container"),
        pytest.param(lambda m: m.a.gains.__setitem__(0, 3.0), id="list"),
        pytest.param(lambda m: m.a.active.update(adapter=1), id="dict"),
        pytest.param(lambda m: setattr(m.a, "mask", torch.tensor([2.0, 0.0])), id="tensor replaced"),
        pytest.param(lambda m: m.a.mask.copy_(m.a.mask.flip(0)), id="tensor written"),
        pytest.param(lambda m: setattr(m.a.config, "scale", 3.0), id="configuration"),
        pytest.param(lambda m: m.a.config.sizes.reverse(), id="list in a configuration"),
        pytest.param(_forward, id="forward"),
    ],
)
def test_a_change_from_outside_is_noticed(change: Callable[[Any], None]) -> None:
    plain, cached = both(CASE, *CASE.frozen)
    train(plain, cached, epochs=2)
    assert cached.cache.report()["hits"] == 24
    for run in (plain, cached):
        change(run.model)
    train(plain, cached, epochs=2)
    report = cached.cache.report()
    assert (report["state"], report["misses"]) == ("on", 48)


def test_a_mask_in_a_buffer_that_is_turned_over_is_noticed() -> None:
    class Masked(Gained):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("which", torch.tensor([1.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x) * (1 + self.which[0])))

    plain, cached = both(Case(Masked, ("a", "b"), VECTORS), "a", "b")
    train(plain, cached, epochs=2)
    for run in (plain, cached):
        run.model.which.copy_(run.model.which.flip(0))
    train(plain, cached, epochs=2)
    assert cached.cache.report()["misses"] == 48


def test_an_equal_value_written_anew_changes_nothing() -> None:
    plain, cached = both(CASE, *CASE.frozen)
    for epoch in range(4):
        for run in (plain, cached):
            run.model.a.temperature = float("1.5")
            run.model.a.gains = [1.0, 2.0]
            run.model.a.mask = torch.tensor([1.0, 0.0])
        train(plain, cached, epochs=1, seed=epoch)
    assert cached.cache.report()["misses"] == 24


def test_what_changes_again_and_again_ends_the_cache_with_its_name() -> None:
    plain, cached = both(CASE, *CASE.frozen)
    for step in range(8):
        for run in (plain, cached):
            run.model.a.temperature = 1.0 + step
        assert torch.equal(plain.step(torch.arange(8)), cached.step(torch.arange(8)))
    same_weights(plain.model, cached.model)
    assert cached.cache.state == "refused"
    assert "the attribute 'temperature' of module 'a' keeps changing" in cached.cache.reason
    searched = cached.cache.report()["seconds"]["search"]
    train(plain, cached, epochs=1)
    assert cached.cache.report()["seconds"]["search"] == searched


class Counts(nn.Module):
    """Notes losses and counts its passes, in a layer or in itself."""

    class Layer(nn.Linear):
        def __init__(self, width: int) -> None:
            super().__init__(16, width)
            self.passes, self.noted = 0, {"losses": []}

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            self.noted["losses"].append(x.square().mean())
            return super().forward(x)

    def __init__(self, where: str) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        if where:
            setattr(self, where, Counts.Layer(3 if where == "c" else 16))
        self.passes, self.where = 0, where

    def forward(self, x: Tensor) -> Tensor:
        if not self.where:
            self.passes += 1
        return self.c(self.b(self.a(x)))


@pytest.mark.parametrize("where", ["", "a", "b", "c"])
def test_what_is_counted_and_noted_is_what_a_run_without_a_cache_counts(where: str) -> None:
    plain, cached = both(Case(lambda: Counts(where), ("a", "b"), VECTORS), "a", "b")
    train(plain, cached)
    counted = [getattr(run.model, where) if where else run.model for run in (plain, cached)]
    assert counted[0].passes == counted[1].passes == 9
    if where:
        for a, b in zip(counted[0].noted["losses"], counted[1].noted["losses"], strict=True):
            assert torch.equal(a, b)
    if where in ("", "a"):
        assert cached.cache.report()["hits"] == 0
        assert "changes its attribute" in cached.cache.reason
    else:
        assert (cached.cache.report()["hits"], cached.cache.cut.path) == (48, "b" if where == "c" else "a")


class Aside(nn.Module):
    """Puts values aside and takes them back later: a pass that is left in between leaves them there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.aside: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.aside.append(x)
        x = self.b(self.a(x))
        return self.c(x + self.aside.pop())


class Once(nn.Module):
    """Makes what it needs in the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(16.0)
        return self.c(self.b(self.a(x) + self.table))


@pytest.mark.parametrize("make", [Aside, Once])
def test_passes_that_fill_the_cache_leave_nothing_behind(make: Callable[[], nn.Module]) -> None:
    plain, cached = both(Case(make, ("a", "b"), VECTORS), "a", "b")
    train(plain, cached, epochs=4)
    assert cached.cache.state == "on", cached.cache.reason
    assert cached.cache.report()["hits"] >= 64
    assert len(getattr(cached.model, "aside", [])) == 0


class Writes(nn.Module):
    """Writes into its inputs, in a layer or by itself."""

    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(1.0))

    def __init__(self, within: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            Writes.Layer(16, 16) if within else nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )
        self.within = within

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x if self.within else x.sub_(1.0).div_(2.0))))


@pytest.mark.parametrize("within", [False, True])
def test_inputs_are_written_as_often_as_without_a_cache(within: bool) -> None:
    plain, cached = both(Case(lambda: Writes(within), ("a", "b"), VECTORS), "a", "b")
    seen: dict[Run, Tensor] = {}

    def keep(run: Run) -> Callable[[Data], Data]:
        def change(data: Data) -> Data:
            seen[run] = data["x"]
            return data

        return change

    for ids in (torch.arange(8), torch.arange(8, 16)) * 3:
        assert torch.equal(plain.step(ids, change=keep(plain)), cached.step(ids, change=keep(cached)))
        assert torch.equal(seen[plain], seen[cached])
    if within:
        assert "module 'a' writes into the inputs" in cached.cache.reason
    else:
        assert cached.cache.report()["hits"] == 32


@dataclass
class Strength:
    value: float


class Conditional(SharedBlock):
    def forward(self, x: Tensor, condition: Strength) -> Tensor:  # type: ignore[override]
        return super().forward(x * condition.value)


def test_an_argument_that_cannot_be_looked_into_is_refused() -> None:
    condition = Strength(1.0)
    case = Case(Conditional, ("first",), VECTORS, call=lambda data: ((data["x"], condition), {}))
    plain, cached = both(case, "first")
    for step in range(6):
        condition.value = 1.0 + step // 2
        assert torch.equal(plain.step(torch.arange(8)), cached.step(torch.arange(8)))
    assert "an argument that the cache cannot look into (Strength)" in cached.cache.reason
    assert cached.cache.report()["forms"] == 0


class Holder(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (1, lambda m: setattr(m, "value", True)),
        (0.0, lambda m: setattr(m, "other", 0.0)),
        ("a", lambda m: delattr(m, "value")),
        ([[1], [2]], lambda m: m.value[1].append(3)),
        ({"a": {1, 2}}, lambda m: m.value["a"].add(3)),
        ([torch.zeros(2)], lambda m: m.value[0].add_(1)),
        (object(), lambda m: setattr(m, "value", object())),
        (list(range(2000)), lambda m: m.value.append(1)),
        (torch.zeros(3), lambda m: setattr(m, "value", torch.zeros(2))),
    ],
)
def test_whether_attributes_are_what_they_were(value: Any, change: Callable[[nn.Module], None]) -> None:
    holder = Holder(value)
    attributes = Attributes({"holder": holder})
    assert attributes.still
    text = attributes.text
    change(holder)
    assert attributes.changed()
    attributes.refresh()
    assert attributes.still
    assert attributes.text != text
