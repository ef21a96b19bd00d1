from __future__ import annotations

from workers.training.finish import frozen_at


def test_only_what_is_frozen_at_the_end_counts_from_its_last_freeze() -> None:
    history = [
        {"step": 4, "frozen": ["a", "b"], "thawed": []},
        {"step": 8, "frozen": ["c"], "thawed": ["a", "b"]},
        {"step": 12, "frozen": ["a"], "thawed": []},
    ]
    assert frozen_at(history) == {"a": 12, "c": 8}
    assert frozen_at([]) == {}
