"""When caching pays: decisions over what was measured."""

from __future__ import annotations

import pytest

from freezer.cache import trial
from freezer.cache.trial import Trial, seen_again


@pytest.mark.parametrize(("fetch", "pays"), [(0.79, True), (0.81, False), (2.0, False)])
def test_a_fetch_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch, fetch: float, pays: bool) -> None:
    monkeypatch.undo()
    judged = Trial()
    for _ in range(trial.PASSES):
        assert judged.refusal is None
        assert not judged.done
        judged.add(1.0, fetch)
    assert judged.done
    assert (judged.refusal is None) == pays


def test_half_of_the_samples_must_come_again() -> None:
    assert seen_again(None, 1, 1) is None
    assert seen_again(100, 15, 10) is None
    assert "fewer than half of this rank's 100 samples" in (seen_again(100, 14, 10) or "")
    assert seen_again(100, 14, 10, kept=20) is None
