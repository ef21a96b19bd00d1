"""When caching pays: decisions over what was measured."""

from __future__ import annotations

import pytest

from freezer.cache import trial
from freezer.cache.trial import Trial


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
