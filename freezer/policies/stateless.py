"""Base of policies whose verdicts depend on the context alone: nothing to save, nothing to restore."""

from __future__ import annotations

from typing import Any


class Stateless:
    """An empty state; restoring anything else is refused, so that a mixed-up checkpoint is noticed."""

    name: str

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises:
        ValueError: the state is another policy's.
        """
        if state:
            raise ValueError(f"policy {self.name!r} has no state, got {sorted(state)}")
