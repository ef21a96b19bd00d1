from __future__ import annotations

import pytest

from workers.training.sampler import StepPlan, share_of

GOLDEN = [[17, 4, 9, 12], [3, 14, 4, 19]]
"""Of the first version, which dealt samples anew in each epoch."""


def plan(**changes: int) -> StepPlan:
    values = {"samples": 53, "batch_size": 3, "accumulation": 2, "world": 2, "seed": 7} | changes
    return StepPlan(**values)


def epoch_of(p: StepPlan, epoch: int) -> list[list[int]]:
    """Samples of every step of an epoch, all ranks together."""
    first = epoch * p.steps_per_epoch
    return [
        [i for rank in range(p.world) for micro in p.micro_batches(step, rank) for i in micro.tolist()]
        for step in range(first, first + p.steps_per_epoch)
    ]


def test_an_epoch_uses_no_sample_twice_and_drops_only_the_rest() -> None:
    p = plan()
    assert (p.step_samples, p.steps_per_epoch) == (12, 4)
    used = [i for step in epoch_of(p, 0) for i in step]
    assert len(used) == len(set(used)) == 48
    assert set(used) < set(range(53))


def seen(p: StepPlan, step: int) -> list[list[int]]:
    return [micro.tolist() for micro in p.micro_batches(step, 1)]


def test_a_step_depends_on_nothing_but_its_number() -> None:
    walked = plan()
    steps = [seen(walked, s) for s in range(9)]
    assert seen(plan(), 8) == steps[8]
    assert seen(walked, 2) == steps[2]


def test_epochs_and_seeds_draw_different_orders() -> None:
    assert epoch_of(plan(), 0) != epoch_of(plan(), 1)
    assert epoch_of(plan(seed=0), 1) != epoch_of(plan(seed=1), 0)


def test_accumulation_regroups_the_same_samples() -> None:
    one, many = plan(accumulation=1, batch_size=6), plan(accumulation=3, batch_size=2)
    assert [sorted(s) for s in epoch_of(one, 0)] == [sorted(s) for s in epoch_of(many, 0)]


def test_total_steps_is_the_smaller_of_epochs_and_max_steps() -> None:
    assert plan().total_steps(3, None) == 12
    assert plan().total_steps(3, 5) == 5
    assert plan().total_steps(3, 500) == 12


def test_a_set_smaller_than_a_step_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"needs 12 samples \(2 processes x 2 micro-batches x 3\).*has 11.*batch_size"):
        plan(samples=11)


def test_a_sample_stays_on_its_rank_and_each_has_one() -> None:
    p = plan(samples=54)
    shares = [set(p.share(rank).tolist()) for rank in range(2)]
    assert shares[0] | shares[1] == set(range(54))
    assert not shares[0] & shares[1]
    for step in range(12):
        for rank in range(2):
            assert {i for micro in p.micro_batches(step, rank) for i in micro.tolist()} <= shares[rank]


def test_ranks_go_through_their_shares_in_orders_of_their_own() -> None:
    p = plan(samples=48)
    places = [[p.share(rank).tolist().index(i) for i in p.micro_batches(0, rank)[0].tolist()] for rank in range(2)]
    assert places[0] != places[1]


def test_a_regular_order_of_the_data_gives_no_rank_classes_of_its_own() -> None:
    even = sum(i % 2 == 0 for i in plan(samples=1000).share(0).tolist())
    assert 200 < even < 300


def test_alone_the_order_is_the_one_that_it_always_was() -> None:
    p = plan(samples=20, world=1, batch_size=4, accumulation=1, seed=5)
    assert [p.micro_batches(step, 0)[0].tolist() for step in (0, 5)] == GOLDEN


@pytest.mark.parametrize("samples", [0, 1, 2, 7, 8])
def test_shares_of_an_evaluation_cover_every_sample_once(samples: int) -> None:
    assert sorted(i for rank in range(3) for i in share_of(samples, rank, 3).tolist()) == list(range(samples))
