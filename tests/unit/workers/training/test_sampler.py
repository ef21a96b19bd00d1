from __future__ import annotations

import pytest

from workers.training.sampler import StepPlan, share_of


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


@pytest.mark.parametrize("samples", [0, 1, 2, 7, 8])
def test_shares_of_an_evaluation_cover_every_sample_once(samples: int) -> None:
    assert sorted(i for rank in range(3) for i in share_of(samples, rank, 3).tolist()) == list(range(samples))
