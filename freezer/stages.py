"""Snapshots and freezing stages: rank 0 looks and plans, everybody agrees, everybody applies."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from freezer.config import Schedule
from freezer.cost import Costs
from freezer.decisions import Decisions
from freezer.errors import FreezerError, PlanError
from freezer.events import FreezeEvent
from freezer.orders import Orders
from freezer.parallel import Stopwatch
from freezer.plan import FreezePlan, PlannerState
from freezer.planner import check, make_plan
from freezer.policies.base import PolicyContext, Verdict
from freezer.recorder import Recorder


class Stages(Orders):
    """The part of :class:`freezer.freezer.Freezer` that asks the policy."""

    schedule: Schedule
    _step: int
    _recorder: Recorder
    _decisions: Decisions
    _initial_rate: float
    _refused: str | None

    @property
    @abstractmethod
    def costs(self) -> Costs:
        """Counters of the run so far."""

    def _record(self) -> None:
        if self.parallel.rank != 0:
            return
        with Stopwatch() as watch:
            active = [u.name for u in self._prepared.used if u.name not in self.plan.frozen]
            self._recorder.record(self._step, active)
        self.costs.spend("snapshot", watch.seconds)

    def _begin_stage(self) -> None:
        """An error of rank 0 alone is raised on every rank where the stage concludes, so that nobody waits in vain."""
        if self.parallel.rank != 0:
            return
        with Stopwatch() as watch:
            try:
                make_context = self._look()
            except FreezerError as error:
                if self.parallel.world_size == 1:
                    raise
                self._decisions.fail(error, self._step)
            else:
                self._decisions.begin(make_context, self._step)
        self.costs.spend("stage", watch.seconds)

    def _look(self) -> Callable[[], PolicyContext]:
        """What the policy will be told, all but the windows: the worker reads those, after this step's snapshot."""
        self._prepared.applier.refuse_changes()
        self._prepared.applier.verify_still()
        units = self._prepared.used
        now = partial(
            PolicyContext,
            step=self._step,
            total_steps=self.schedule.total_steps,
            units=units,
            frozen=frozenset(self.plan.frozen),
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            initial_learning_rate=self._initial_rate,
            config=self.config,
            extra=self._decisions.collect(self._step),
        )
        return lambda: now(windows=self._recorder.windows(u.name for u in units))

    def _conclude(self, stage: int) -> FreezeEvent | None:
        """Rank 0 plans, everybody agrees, everybody applies."""
        found = self._prepared
        with Stopwatch() as watch:
            message: dict[str, Any] | FreezerError | None = None
            if self.parallel.rank == 0:
                try:
                    verdicts = self._decisions.take(stage)
                    self._refuse_unsound(verdicts)
                    planned = make_plan(
                        self.plan,
                        self._planner,
                        verdicts,
                        found.survey,
                        self.config,
                        step=self._step,
                        total_steps=self.schedule.total_steps,
                        pinned=self.pinned,
                        calendar=self._policy.calendar,
                    )
                    self._refused = planned.refused
                    message = {"plan": planned.plan.to_dict(), "planner": planned.state.to_dict()}
                except FreezerError as error:
                    message = error
            # two ranks that are at different steps, or froze different units before, must not go on
            agreed = self.parallel.agree(message, "the step, or the plan so far", [self._step, self.plan.digest])
            plan = FreezePlan.from_dict(agreed["plan"])
            self._planner = PlannerState.from_dict(agreed["planner"])
            check(plan, found.units, self.pinned)
        self.costs.spend("agree", watch.seconds)
        return self._change(plan, "policy")

    def _refuse_unsound(self, verdicts: Sequence[Verdict]) -> None:
        """A probability that is no number mostly comes of weights that are none; then that is what to say."""
        if all(v.probability is None or math.isfinite(v.probability) for v in verdicts):
            return
        name = self._prepared.unsound()
        if name is not None:
            raise PlanError(
                f"the weights of unit {name!r} are not finite: training has diverged, and the policy "
                f"{self._policy.name!r} cannot judge it. Lower the learning rate, clip gradients, or skip steps whose "
                "loss is not finite"
            )
