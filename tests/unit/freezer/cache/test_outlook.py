"""Whether a proof would pay: decisions over what is known of the run."""

from __future__ import annotations

import pytest

from freezer.cache.outlook import PROOF, Outlook


def outlook(samples: int | None, steps: int, rows: int | None = None) -> Outlook:
    made = Outlook(samples)
    made.changed(steps, rows, frozen_before=False)
    return made


def test_half_of_the_samples_must_come_again() -> None:
    assert outlook(None, 1).refusal(1, kept=0, forms=1) is None
    assert outlook(100, 15).refusal(10, kept=0, forms=1) is None
    assert "fewer than half of this rank's 100 samples" in (outlook(100, 14).refusal(10, kept=0, forms=1) or "")
    assert outlook(100, 14).refusal(10, kept=20, forms=1) is None
    assert outlook(100, 14, rows=20).refusal(10, kept=0, forms=1) is None, "two passes make a step"


def test_steps_that_have_gone_by_are_not_to_come() -> None:
    made = outlook(100, 16)
    for _ in range(2):
        made.saw(10)
    assert "with 14 steps" in (made.refusal(10, kept=0, forms=1) or "")


@pytest.mark.parametrize(("steps", "pays"), [(10 + PROOF - 1, False), (10 + PROOF, True)])
def test_a_frozen_set_is_expected_to_last_as_long_as_those_before(steps: int, pays: bool) -> None:
    """100 samples are ten steps: what comes then is replayed, and must be worth a proof."""
    made = outlook(100, 1000)
    assert made.refusal(10, kept=0, forms=1) is None, "the first is expected to last"
    made.changed(1000 - steps, 10, frozen_before=True)
    assert (made.refusal(10, kept=0, forms=1) is None) == pays
    assert (made.refusal(10, kept=100, forms=1) is None) == (steps >= PROOF)
    assert made.refusal(10, kept=0, forms=2) is not None, "each form needs a proof of its own"


def test_what_has_lasted_longer_is_expected_to_last_on() -> None:
    made = outlook(100, 1000)
    made.changed(995, 10, frozen_before=True)
    for _ in range(10 + PROOF):
        assert "have lasted 5 steps on average" in (made.refusal(10, kept=0, forms=1) or "")
        made.saw(10)
    assert made.refusal(10, kept=0, forms=1) is None


def test_a_change_while_nothing_was_frozen_tells_nothing() -> None:
    made = outlook(100, 1000)
    made.changed(999, 10, frozen_before=False)
    assert made.refusal(10, kept=0, forms=1) is None
