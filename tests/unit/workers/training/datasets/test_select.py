"""Fixed choices: complete, disjoint, balanced, and the same for ever."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.training.datasets.select import balanced, permuted, stratified

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@given(LABELS, st.data())
def test_a_balanced_subset_is_as_even_as_the_classes_allow(labels: torch.Tensor, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels)))
    chosen = balanced(labels, size, seed=3)
    assert len(set(chosen.tolist())) == size
    assert chosen.tolist() == sorted(chosen.tolist())
    taken, there = labels[chosen].bincount(minlength=5), labels.bincount(minlength=5)
    # A class has fewer than another by two or more only where it has no more to give.
    assert all(taken[c] == there[c] for c in range(5) if taken[c] < taken.max() - 1)


@given(LABELS, st.floats(0.05, 0.9))
def test_a_stratified_split_loses_nothing_and_keeps_every_class(labels: torch.Tensor, ratio: float) -> None:
    kept, held = stratified(labels, ratio, seed=3)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    for label, count in enumerate(labels.bincount().tolist()):
        held_count = int((labels[held] == label).sum())
        if count >= 2:
            assert 1 <= held_count < count
            assert abs(held_count - count * ratio) <= 1
        elif count == 1:
            assert held_count == 0


def test_the_choices_are_the_same_in_every_release() -> None:
    labels = torch.arange(12) % 3
    assert permuted(6, 0).tolist() == [2, 5, 3, 0, 1, 4]
    assert balanced(labels, 5, 0).tolist() == GOLDEN_BALANCED
    assert stratified(labels, 0.25, 0)[1].tolist() == GOLDEN_HELD
    assert balanced(labels, 5, 1).tolist() != GOLDEN_BALANCED


GOLDEN_BALANCED = [0, 4, 7, 8, 9]
GOLDEN_HELD = [0, 7, 8]
