"""Training from the cache is training without it, bit for bit; a model that cannot be cut is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import checkpoint

from freezer.cache import CacheSettings, ForwardCache, trial
from freezer.cost import forward_flops_of, step_flops
from freezer.flops import flop_counter
from freezer.units import survey
from tests.unit.freezer.cache.models import CASES, Case, SharedBlock, bert
from tests.unit.freezer.cache.runs import Run, batches, both, same_weights, train


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.cut])
def test_replayed_training_is_bit_identical(name: str) -> None:
    case = CASES[name]
    plain, cached = both(case, *case.frozen)
    train(plain, cached)
    report = cached.cache.report()
    assert report["state"] == "on", report["reason"]
    assert report["cut"] == case.cut
    assert (report["hits"], report["misses"], report["rows_ram"]) == (48, 24, 24)
    assert all("forward" not in m.__dict__ for m in cached.model.modules())


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.reason])
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(name: str) -> None:
    case = CASES[name]
    plain, cached = both(case, *case.frozen)
    train(plain, cached, epochs=2)
    assert cached.cache.state == "refused"
    assert case.reason in cached.cache.reason
    assert cached.cache.report()["hits"] == 0


@pytest.mark.parametrize("name", ["resnet", "transformer", "bert"])
def test_a_cold_cache_in_the_middle_changes_no_bit(name: str) -> None:
    plain, cached = both(CASES[name], *CASES[name].frozen)
    for i, ids in enumerate(batches(24, 8, 4)):
        if i == 5:
            cached.renew()
        assert torch.equal(plain.step(ids), cached.step(ids))
    same_weights(plain.model, cached.model)


def test_batches_of_another_size_are_proven_or_run_whole() -> None:
    plain, cached = both(CASES["bert"], *CASES["bert"].frozen)
    train(plain, cached, epochs=3, size=10)  # the last batch of an epoch has 4 rows
    assert cached.cache.report()["hits"] >= 40


def test_a_small_batch_first_does_not_keep_the_larger_ones_out() -> None:
    plain, cached = both(CASES["transformer"], *CASES["transformer"].frozen)
    for ids in [torch.arange(3), *batches(24, 8, 3)]:
        assert torch.equal(plain.step(ids), cached.step(ids))
    same_weights(plain.model, cached.model)
    assert cached.cache.report()["hits"] >= 48


def test_what_is_skipped_really_does_not_run() -> None:
    case = CASES["bert"]
    _, cached = both(case, *case.frozen)
    train(Run(case), Run(case), epochs=1)
    for ids in batches(24, 8, 1):
        cached.step(ids)
    ran: set[nn.Module] = set()
    handle = register_module_forward_pre_hook(lambda module, _: ran.add(module))
    cached.step(torch.arange(8))
    handle.remove()
    assert not ran.intersection(cached.model.get_submodule(path) for path in cached.cache.cut.executed)
    assert cached.model.classifier in ran
    assert "bert.encoder.layer.1.output.dense" in cached.cache.cut.executed
    assert "bert.encoder.layer.2.output.dense" not in cached.cache.cut.executed


@pytest.mark.parametrize("name", ["resnet, all but the head", "bert, all but the head", "bert", "transformer"])
def test_what_a_cut_skips_is_counted_as_measured_around_real_passes(name: str) -> None:
    case = CASES[name]
    plain, cached = both(case, *case.frozen)
    train(plain, cached, epochs=2)
    spent = []
    for run in (plain, cached):
        with flop_counter() as counter:
            run.step(torch.arange(8))
        spent.append(counter.get_total_flops())
    assert cached.cache is not None
    assert cached.cache.cut is not None
    args, kwargs = case.call({k: v[:8] for k, v in plain.data.items()})
    skipped = forward_flops_of(survey(plain.model, args, kwargs, "layer"), cached.cache.cut.executed)
    assert skipped == spent[0] - spent[1] > 0


def test_the_books_agree_with_what_really_ran() -> None:
    """Fills, hits, rows that advance to a later cut and batches with some rows missing, each to the FLOP."""
    case = CASES["bert"]
    plain, cached = both(case, *case.frozen[:2])
    assert cached.cache is not None
    args, kwargs = case.call({k: v[:8] for k, v in plain.data.items()})
    found = survey(plain.model, args, kwargs, "layer")

    def difference(ids: Tensor) -> tuple[float, int]:
        """What was booked as saved, and what was measured."""
        spent = []
        for run in (plain, cached):
            with flop_counter() as counter:
                run.step(ids)
            spent.append(counter.get_total_flops())
        whole = step_flops(found).forward
        entries = cached.cache.ledger.take()
        booked = sum(rows * (forward_flops_of(found, cut.executed) if cut else whole) for cut, rows in entries)
        return booked / 8, spent[0] - spent[1]

    def same(ids: Tensor, *, saves: bool) -> None:
        booked, measured = difference(ids)
        assert booked == measured
        assert (measured > 0) is saves

    def proof(ids: Tensor) -> None:
        booked, measured = difference(ids)
        assert booked <= measured < 0

    proof(torch.arange(8))
    same(torch.arange(8, 16), saves=False)
    same(torch.arange(4, 12), saves=True)
    same(torch.arange(12, 20), saves=False)  # four are missing, but the proven size is eight
    for run in (plain, cached):
        run.freeze(*case.frozen)
    proof(torch.arange(8))
    same(torch.arange(8, 16), saves=True)  # from the earlier cut
    same(torch.arange(8, 16), saves=True)


def test_gradient_accumulation_and_passes_without_ids() -> None:
    plain, cached = both(CASES["vgg"], *CASES["vgg"].frozen)
    for i, ids in enumerate(batches(24, 4, 3)):
        a, b = plain.step(ids, update=i % 2 == 1), cached.step(ids, update=i % 2 == 1)
        assert torch.equal(a, b)
    args, kwargs = cached.case.call({k: v[:4] for k, v in cached.data.items()})
    before = cached.cache.report()
    with cached.cache.around(None, None, args, kwargs):
        cached.model(*args, **kwargs)
    assert {**cached.cache.report(), "seconds": 0} == {**before, "seconds": 0}
    same_weights(plain.model, cached.model)


def test_autocast_is_part_of_the_form() -> None:
    plain, cached = both(CASES["bert"], *CASES["bert"].frozen)
    for i, ids in enumerate(batches(24, 8, 4)):
        with torch.autocast("cpu", torch.bfloat16, enabled=(i // 3) % 2 == 0):
            assert torch.equal(plain.step(ids), cached.step(ids))
    same_weights(plain.model, cached.model)
    report = cached.cache.report()
    assert (report["forms"], report["hits"], report["misses"]) == (2, 48, 48)


class Scaled(SharedBlock):
    """Takes a number that may change in each pass, as the strength of a reversed gradient does."""

    def forward(self, x: Tensor, alpha: float) -> Tensor:
        return super().forward(x) * alpha


def test_forms_without_end_are_not_kept() -> None:
    model = Scaled()
    model.first.requires_grad_(False)
    cache = ForwardCache(model, CacheSettings())
    cache.retarget("x", 1000)
    for step in range(100):
        with cache.around(torch.arange(8), None, (torch.ones(8, 16), step / 100), {}):
            model(torch.ones(8, 16), step / 100)
    assert len(cache._lines) == 16
    assert len(cache._forms) < 100
    hits = cache.report()["hits"]
    with cache.around(torch.arange(8), None, (torch.ones(8, 16), 0.15), {}):
        model(torch.ones(8, 16), 0.15)
    assert cache.report()["hits"] == hits + 8, "the first ones are still served"


def test_weights_written_behind_its_back_are_noticed() -> None:
    plain, cached = both(CASES["shared block"], *CASES["shared block"].frozen)
    train(plain, cached, epochs=2)
    for run in (plain, cached):
        with torch.no_grad():
            run.model.first.weight.mul_(1.5)
    train(plain, cached, epochs=2)
    assert cached.cache.report()["misses"] == 48


def test_a_buffer_replaced_behind_its_back_is_noticed() -> None:
    case = replace(CASES["batch norm awake"], awake=())
    plain, cached = both(case, *case.frozen)
    train(plain, cached, epochs=2)
    for run in (plain, cached):
        run.model.norm.running_mean = run.model.norm.running_mean + 1.0
    train(plain, cached, epochs=2)
    assert cached.cache.report()["misses"] == 48


def test_modes_switched_behind_its_back_are_noticed() -> None:
    """Batch norm that goes into training uses the batch and moves; kept values would do neither."""
    case = replace(CASES["batch norm awake"], awake=())
    plain, cached = both(case, *case.frozen)
    train(plain, cached, epochs=2)
    assert cached.cache.cut.path == "b"
    case.awake = ("norm",)
    train(plain, cached, epochs=2)
    assert cached.cache.cut.path == "a"
    assert cached.model.norm.num_batches_tracked == 6


class OtherInTraining(nn.Module):
    """Does something else in training, without a random number, in a container around the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x) * (2.0 if self.training else 1.0)))


def test_the_mode_of_a_container_around_the_cut_counts_too() -> None:
    case = Case(OtherInTraining, ("a", "b"), CASES["batch norm awake"].data)
    plain, cached = both(case, *case.frozen)
    ids = torch.arange(8)
    for _ in range(3):
        assert torch.equal(plain.step(ids), cached.step(ids))
    assert cached.cache.report()["hits"] > 0
    args, kwargs = case.call({k: v[ids] for k, v in plain.data.items()})
    cached.model.eval()
    with cached.cache.around(ids, None, args, kwargs):
        output = cached.model(*args, **kwargs)
    assert torch.equal(output, plain.model.eval()(*args, **kwargs))


class Checkpointed(SharedBlock):
    """``together`` recomputes the frozen and the trained layer as one."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        self.together = together
        self.zeroth = nn.Linear(16, 16)
        self.next = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.zeroth(x)
        if self.together:
            x = checkpoint(lambda y: self.next(self.first(y)).tanh(), x, use_reentrant=False)
        else:
            x = checkpoint(self.first, x, use_reentrant=False)
            x = checkpoint(lambda y: self.next(y).tanh(), x, use_reentrant=False)
        return self.last(x)


def test_checkpointing_by_blocks_works_and_no_cut_lies_within_one() -> None:
    for together in (False, True):
        case = Case(lambda together=together: Checkpointed(together), ("zeroth", "first"), CASES["shared block"].data)
        plain, cached = both(case, *case.frozen)
        train(plain, cached)
        assert cached.cache.state == "on", cached.cache.reason
        assert cached.cache.cut.path == ("zeroth" if together else "first")


def test_hugging_face_checkpointing() -> None:
    def make() -> nn.Module:
        model = bert()
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        return model

    base = CASES["bert"]
    plain, cached = both(Case(make, base.frozen, base.data, call=base.call), *base.frozen)
    train(plain, cached)
    assert cached.cache.report()["hits"] == 48


def test_foreign_hooks_before_the_cut_are_not_silenced() -> None:
    plain, cached = both(CASES["shared block"], "first")
    seen: list[int] = []

    def hook(*_: object) -> None:
        seen.append(1)

    hook.__module__ = "users.code"
    cached.model.first.register_forward_hook(hook)
    train(plain, cached)
    assert "forward hook" in cached.cache.reason


def test_off_does_nothing() -> None:
    plain, cached = both(CASES["vgg"], "0", mode="off")
    train(plain, cached, epochs=1)
    assert cached.cache.state == "off"
    assert cached.cache.cut is None


def test_only_what_pays_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "GAIN", 0.0)
    plain, cached = both(CASES["frozen by the user"], "first")
    train(plain, cached)
    assert "would not pay" in cached.cache.reason
    assert cached.cache.report()["bytes_ram"] == 0


def test_without_reuse_there_is_no_search() -> None:
    run = Run(CASES["vgg"], CacheSettings(), samples=24)
    run.freeze("0")
    run.cache.retarget("0", 4)
    run.step(torch.arange(8))
    assert "will be seen again" in run.cache.reason
    assert run.cache.report()["seconds"]["search"] == 0
