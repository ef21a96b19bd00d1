"""Decisions beside training: the policy runs in one worker thread, and its verdicts are picked up at a fixed step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from freezer.errors import FreezerError, PlanError
from freezer.policies.base import Policy, PolicyContext, Verdict


class Decisions:
    """Stages under way, oldest first. The thread starts with the first stage, so a run without stages has none."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[int, Future[list[Verdict]]]] = deque()

    def begin(self, context: PolicyContext) -> None:
        """Start the stage of ``context.step``; returns at once."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="freezer-policy")
        self._pending.append((context.step, self._pool.submit(self.policy.decide, context)))

    def take(self, stage: int) -> Sequence[Verdict]:
        """Verdicts of the stage that began at step ``stage``; waits for them. Empty if no such stage began.

        Raises:
            FreezerError: the policy failed; other exceptions of a policy come as :class:`PlanError` with their cause.
        """
        while self._pending and self._pending[0][0] < stage:
            self._pending.popleft()
        if not self._pending or self._pending[0][0] != stage:
            return []
        return self._wait(*self._pending.popleft())

    def _wait(self, stage: int, future: Future[list[Verdict]]) -> list[Verdict]:
        try:
            return future.result()
        except FreezerError:
            raise
        except Exception as error:
            raise PlanError(f"policy {self.policy.name!r} failed at step {stage}: {error!r}") from error

    def state_dict(self) -> dict[str, Any]:
        """Waits for what is under way, so that the state is whole."""
        pending = [
            {"stage": stage, "verdicts": [asdict(v) for v in self._wait(stage, f)]} for stage, f in self._pending
        ]
        return {"name": self.policy.name, "policy": self.policy.state_dict(), "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            PlanError: the state is another policy's.
        """
        if state["name"] != self.policy.name:
            raise PlanError(f"the checkpoint was made with policy {state['name']!r}, not {self.policy.name!r}")
        self.policy.load_state_dict(state["policy"])
        self._pending.clear()
        for entry in state["pending"]:
            done: Future[list[Verdict]] = Future()
            done.set_result([Verdict(**verdict) for verdict in entry["verdicts"]])
            self._pending.append((entry["stage"], done))

    def close(self) -> None:
        """End the thread; a decision under way is finished and dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._pending.clear()
