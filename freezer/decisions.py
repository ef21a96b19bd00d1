"""Decisions beside training: the policy runs in a worker thread, and its verdicts are picked up at a fixed step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from freezer.errors import FreezerError, PlanError
from freezer.policies.base import Policy, PolicyContext, Verdict

Submit = Callable[[Callable[[], list[Verdict]]], "Future[list[Verdict]]"]


class Decisions:
    """Stages under way, oldest first.

    Args:
        policy: who decides.
        submit: runs a function in the worker thread, in order, after the snapshots taken so far:
            :meth:`freezer.recorder.Recorder.submit`.
    """

    def __init__(self, policy: Policy, submit: Submit) -> None:
        self.policy = policy
        self._submit = submit
        self._pending: deque[tuple[int, Future[list[Verdict]]]] = deque()

    def begin(self, make_context: Callable[[], PolicyContext], step: int) -> None:
        """Start the stage of ``step``; returns at once. ``make_context`` runs in the worker too: it reads windows."""
        self._pending.append((step, self._submit(partial(self._decide, make_context, step))))

    def fail(self, error: FreezerError, step: int) -> None:
        """The stage of ``step`` cannot begin: :meth:`take` raises this."""
        failed: Future[list[Verdict]] = Future()
        failed.set_exception(error)
        self._pending.append((step, failed))

    def collect(self, step: int) -> dict[str, Any]:
        """What the policy takes in at a stage.

        Raises:
            FreezerError: it failed; other exceptions come as :class:`PlanError` with their cause.
        """
        with self._told(step):
            return dict(self.policy.collect(step))

    @contextmanager
    def _told(self, step: int) -> Iterator[None]:
        try:
            yield
        except FreezerError:
            raise
        except Exception as error:
            raise PlanError(f"policy {self.policy.name!r} failed at step {step}: {error!r}") from error

    def _decide(self, make_context: Callable[[], PolicyContext], step: int) -> list[Verdict]:
        context = make_context()  # what fails here is not the policy's fault
        with self._told(step):
            return self.policy.decide(context)

    def take(self, stage: int) -> Sequence[Verdict]:
        """Verdicts of the stage that began at step ``stage``; waits for them. Empty if no such stage began.

        Raises:
            FreezerError: the policy failed; other exceptions of a policy come as :class:`PlanError` with their cause.
        """
        while self._pending and self._pending[0][0] < stage:
            self._pending.popleft()
        if not self._pending or self._pending[0][0] != stage:
            return []
        return self._pending.popleft()[1].result()

    def state_dict(self) -> dict[str, Any]:
        """Waits for what is under way, so that the state is whole."""
        pending = [{"stage": stage, "verdicts": [asdict(v) for v in f.result()]} for stage, f in self._pending]
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
        """Drop all stages: one that has not begun does not run, one under way is finished by the worker for nothing.
        Close the policy."""
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
        self.policy.close()
